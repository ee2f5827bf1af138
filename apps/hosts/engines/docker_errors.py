"""What the Docker Engine's error texts mean. Pure; the SDK is not needed to read them.

The engine has no error codes beyond HTTP's, so its words are all there is. Those below were seen on Docker Engine
20.10; an unknown text becomes the plain, retryable error of its kind, never a wrong certainty.
"""

from __future__ import annotations

import re

from apps.hosts.engines.base import (
    EngineError,
    ImageDenied,
    ImageNotFound,
    ImageUnavailable,
    NetworksExhausted,
    PortTaken,
    SpecRefused,
)

MAX_MESSAGE = 300

_SECRETS = (
    (re.compile(r"://[^/\s@]+@"), "://"),  # user:password in a URL
    (re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*"), r"\1"),  # a token server's query
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ..."),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"), "..."),  # a JWT
)
# What runc wraps around the one phrase that a tenant can act on.
_WRAPPING = re.compile(
    r"^(?:failed to create shim task: |OCI runtime create failed: |runc create failed: "
    r"|container_linux\.go:\d+: |starting container process caused: "
    r"|unable to start container process: )+|: unknown$"
)


class Moved(EngineError):
    """Somebody else changed the container, its image or its network between two of our calls: look again."""

    code = "engine.moved"


_EXEC = r"exec: .*(?:executable file not found|no such file or directory|permission denied|(?:is|not) a directory)"
_START: tuple[tuple[re.Pattern[str], type[EngineError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kind)
    for pattern, kind in (
        (r"port is already allocated|bind: address already in use", PortTaken),
        (r"cannot assign requested address|no space left on device", EngineError),
        (r"non-overlapping IPv4 address pool", NetworksExhausted),
        (r"no such (?:image|container|network)", Moved),
        (r"network \S+ (?:not found|is ambiguous)|has active endpoints", Moved),
        (r"already in use by container|already in progress|marked for removal|removal in progress", Moved),
        (_EXEC, SpecRefused),
        (r"unable to find (?:user|group)|no matching entries in (?:passwd|group)", SpecRefused),
        (r"no command specified|memory limit too low|chdir to cwd|exec format error", SpecRefused),
    )
)
_PULL: tuple[tuple[re.Pattern[str], type[EngineError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kind)
    for pattern, kind in (
        # First the denials: the engine words them "access denied ... repository does not exist or may require".
        (
            r"access (?:to the resource )?(?:is |was )?denied|denied:|unauthorized|no basic auth|forbidden",
            ImageDenied,
        ),
        (r"manifest unknown|name unknown|name_unknown|repository name not known", ImageNotFound),
        (r"manifest for \S+ not found|blob unknown", ImageNotFound),
        (r"no matching manifest|does not match the specified platform|unsupported media type", SpecRefused),
        (r"no space left on device", EngineError),
    )
)


def clean(text: object) -> str:
    """One line of at most 300 characters without credentials; never empty."""
    line = "".join(char if char.isprintable() else " " for char in str(text))
    for pattern, instead in _SECRETS:
        line = pattern.sub(instead, line)
    line = " ".join(line.split())
    if len(line) > MAX_MESSAGE:
        line = line[: MAX_MESSAGE - 1] + "…"
    return line or "no reason given"


def read_error(status: int, text: str) -> EngineError:
    """The error that an HTTP status and text of any call but a pull mean."""
    message = clean(_WRAPPING.sub("", text.strip()))
    for pattern, kind in _START:
        if pattern.search(text):
            return kind(message)
    if status in (404, 409):
        return Moved(message)
    return SpecRefused(message) if status == 400 else EngineError(message)


def read_pull_error(text: str) -> EngineError:
    """The error that a pull's text means; what is not understood is the registry's fault, and retryable."""
    for pattern, kind in _PULL:
        if pattern.search(text):
            return kind(clean(text))
    return ImageUnavailable(clean(text))
