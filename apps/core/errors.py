"""The errors that people meet. Each class has a frozen ``code``; clients may rely on it for ever.

Two families: what the asker can mend (``Refused`` and below) and what is ours (``PlatformError``). One handler
(portal.api.errors) maps them to HTTP; services raise them and know nothing of HTTP.
"""

from __future__ import annotations

from typing import ClassVar


class BerthError(Exception):
    """``detail`` is one sentence for a person that says what to do next; ``extra`` is for programs."""

    code: ClassVar[str] = "platform.error"
    status: ClassVar[int] = 500

    def __init__(self, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class Refused(BerthError):
    """The asker's to mend."""

    code = "request.refused"
    status = 400


class Invalid(Refused):
    code = "request.invalid"
    status = 400


class Denied(Refused):
    """The asker may see the object but not do this with it."""

    code = "permission.denied"
    status = 403


class Missing(Refused):
    """Not there, or not the asker's to see: the two are never told apart."""

    code = "not_found"
    status = 404


class Conflict(Refused):
    code = "conflict"
    status = 409


class PlatformError(BerthError):
    """Ours to mend."""

    code = "platform.unavailable"
    status = 503
