"""Health checks: what is asked of an instance, how often, and when it counts. Plain Python, no Django.

A release has a readiness check (whether it gets traffic) and may have a liveness check of its own (whether it is still
good for anything). Both are kept as JSON over the defaults here; the path of the readiness check is the release's
``health_path``, and an empty one means TCP.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

#: RFC 3986 path and query characters; nothing that could end a request line.
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,199}")
DEFAULT_PATH = "/_ping"
#: A hang is unrouted after three of them; 10,000 instances that are asked so often take half a core (decision 0007).
INTERVAL_S = 2
TIMEOUT_S = 2
#: The least and the most: seconds, and failed checks in a row.
BOUNDS = {"interval_s": (1, 300), "timeout_s": (1, 60), "start_period_s": (1, 900), "failures": (1, 20)}
MAX_TEXT = 200
MAX_PARTS = 32
MAX_COMMAND = 2000


class Kind(enum.StrEnum):
    HTTP = "http"
    TCP = "tcp"
    COMMAND = "command"


class CheckInvalid(ValueError):
    """A check that can't be made. ``key`` is what is wrong in it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class Check:
    """One question. Times are seconds; 0 as ``start_period_s`` or ``failures`` is the platform's own setting."""

    kind: Kind = Kind.TCP
    path: str = ""
    statuses: tuple[int, int] = (200, 399)
    #: Must stand in the first 64 KiB of the body.
    text: str = ""
    command: tuple[str, ...] = ()
    interval_s: int = INTERVAL_S
    timeout_s: int = TIMEOUT_S
    start_period_s: int = 0
    failures: int = 0

    def plain(self) -> dict[str, Any]:
        """As the API shows it."""
        return {**asdict(self), "kind": str(self.kind), "statuses": list(self.statuses), "command": list(self.command)}

    def asks(self, port: int) -> str:
        """What it asks of an instance whose container listens on this port, in words for its tenant."""
        if self.kind is Kind.HTTP:
            return f"GET {self.path} on port {port}"
        return f"a TCP connect on port {port}" if self.kind is Kind.TCP else f"the command {' '.join(self.command)}"


class HasChecks(Protocol):
    """A release, as far as its checks go."""

    @property
    def health_path(self) -> str: ...

    @property
    def readiness(self) -> Mapping[str, Any]: ...

    @property
    def liveness(self) -> Mapping[str, Any]: ...


def readiness_of(release: HasChecks) -> Check:
    """Whether it gets traffic."""
    return check_of(release.readiness, release.health_path)


def liveness_of(release: HasChecks) -> Check | None:
    """Whether it is alive. None: the readiness check says that too."""
    return check_of(release.liveness, "") if release.liveness else None


def check_of(kept: Mapping[str, Any], path: str) -> Check:
    """From what is kept. Anything else than ``checked`` has let through raises TypeError or ValueError."""
    values = dict(kept)
    path = values.pop("path", path)
    kind = Kind(values.pop("kind", Kind.HTTP if path else Kind.TCP))
    statuses = tuple(values.pop("statuses", (200, 399)))
    command = tuple(values.pop("command", ()))
    interval = values.get("interval_s", INTERVAL_S)
    values.setdefault("timeout_s", min(TIMEOUT_S, interval))
    return Check(kind=kind, path=path if kind is Kind.HTTP else "", statuses=statuses, command=command, **values)


def checked(given: Mapping[str, Any], *, startable: bool = True) -> dict[str, Any]:
    """What was asked for, in the form that is kept: only what was given, and ``kind``. Raises CheckInvalid.

    ``startable``: whether it may have a ``start_period_s``, as readiness does. {} is {}: the defaults.
    """
    unknown = sorted(set(given) - set(_PARTS) - set(BOUNDS))
    if unknown:
        raise CheckInvalid("", f"a check has no {unknown[0][:40]!r}")
    kept = {key: _PARTS[key](value) for key, value in given.items() if key in _PARTS}
    kept |= {key: _number(key, value) for key, value in given.items() if key in BOUNDS}
    if "start_period_s" in kept and not startable:
        raise CheckInvalid("start_period_s", "start_period_s belongs to readiness: liveness is asked once it was ready")
    if not kept:
        return {}
    kept["kind"] = kind = _kind(kept)
    _together(kept, kind)
    interval = kept.get("interval_s", INTERVAL_S)
    if kept.get("timeout_s", 0) > interval:
        raise CheckInvalid("timeout_s", f"timeout_s may not be above interval_s ({interval}): one at a time is asked")
    return kept


def _kind(kept: Mapping[str, Any]) -> str:
    if "kind" in kept:
        return str(kept["kind"])
    if kept.get("command"):
        return Kind.COMMAND.value
    return Kind.HTTP.value


def _together(kept: dict[str, Any], kind: str) -> None:
    """What goes with which kind: what would have no effect is refused and not ignored."""
    belongs = {"path": Kind.HTTP, "statuses": Kind.HTTP, "text": Kind.HTTP, "command": Kind.COMMAND}
    for key, only in belongs.items():
        if not kept.get(key):
            kept.pop(key, None)
        elif kind != only:
            raise CheckInvalid(key, f"{key} goes with a check of the kind {only}")
    if kind == Kind.COMMAND and "command" not in kept:
        raise CheckInvalid("command", "a check of the kind command needs a command")


def _as_kind(value: object) -> str:
    if value not in list(Kind):
        raise CheckInvalid("kind", f"kind must be one of {', '.join(Kind)}")
    return str(value)


def _as_path(value: object) -> str:
    if not isinstance(value, str) or (value and not _PATH.fullmatch(value)):
        raise CheckInvalid("path", "path must be like /_ping")
    return value


def path_ok(path: str) -> bool:
    return bool(_PATH.fullmatch(path))


def _as_statuses(value: object) -> list[int]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise CheckInvalid("statuses", "statuses must be two numbers, the lowest and the highest that are well")
    low, high = value
    if type(low) is not int or type(high) is not int or not 100 <= low <= high <= 599:
        raise CheckInvalid("statuses", "statuses must be from 100 to 599, the lowest first")
    return [low, high]


def _as_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value or not _encodes(value):
        raise CheckInvalid("text", f"text must be at most {MAX_TEXT} characters, without NUL")
    return value


def _as_command(value: object) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(part, str) for part in value):
        raise CheckInvalid("command", "command must be a list of texts: the program and its arguments")
    parts = list(value)
    if len(parts) > MAX_PARTS or sum(map(len, parts)) > MAX_COMMAND or (parts and not parts[0]):
        raise CheckInvalid("command", f"command may have {MAX_PARTS} parts and {MAX_COMMAND} characters in all")
    if any("\0" in part or not _encodes(part) for part in parts):
        raise CheckInvalid("command", "command must be without NUL")
    return parts


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(key: str, value: object) -> int:
    low, high = BOUNDS[key]
    if type(value) is not int or not low <= value <= high:
        raise CheckInvalid(key, f"{key} must be a whole number from {low} to {high}")
    return value


_PARTS: dict[str, Callable[[object], Any]] = {
    "kind": _as_kind,
    "path": _as_path,
    "statuses": _as_statuses,
    "text": _as_text,
    "command": _as_command,
}
