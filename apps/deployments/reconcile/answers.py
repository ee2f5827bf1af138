"""What an instance answered to its check: well, or wrong and how. Pure functions over bytes.

What comes back is a tenant's text. It is never evaluated, only measured against the check, and shown to the same
tenant with its control characters replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from apps.deployments.checks import Check

# RFC 9110, section 15: three digits. Never int() of more.
_STATUS = re.compile(rb"[1-5][0-9]{2}")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
#: A status line or a head that is longer is no answer; of the body so much is searched. Bytes.
MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
#: Characters of an answer that are kept for people.
SHOWN = 300


@dataclass(frozen=True, slots=True)
class Wrong:
    """What was wrong in a few words, and the beginning of what came back.

    ``proven``: False where it is the platform that could not ask, which says nothing about the instance.
    ``heard``: its host took the connection, so that it is not the network that is silent.
    """

    reason: str
    seen: str = ""
    proven: bool = True
    heard: bool = field(default=False, compare=False)


NOT_HTTP = "its answer is not HTTP"
CLOSED = "it closed the connection without an answer"


def shown(answer: bytes) -> str:
    """At most SHOWN characters, none of which can move a cursor or turn the direction of writing."""
    text = answer[: SHOWN * 4].decode(errors="replace").strip()[:SHOWN]
    return "".join(one if one.isprintable() else ("\n" if one == "\n" else "\N{REPLACEMENT CHARACTER}") for one in text)


def judged(check: Check, answer: bytes, *, ended: bool, seen: int = 0) -> tuple[bool, Wrong | None]:
    """Whether it is decided by these bytes, and if so what was wrong. ``ended``: no more will come.

    ``seen``: so many of them were judged before. The text is not looked for there again: who sends byte by byte would
    have the whole answer searched for each.
    """
    at = answer.find(b"\n")
    if at < 0 and not ended and len(answer) < MAX_HEAD:
        return False, None
    if not answer:
        return True, Wrong(CLOSED)
    line = answer if at < 0 else answer[:at]
    parts = line.split(b" ", 2)
    if len(line) > MAX_HEAD or len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
        return True, Wrong(NOT_HTTP, shown(answer))
    status = parts[1].strip()
    if not _STATUS.fullmatch(status):
        return True, Wrong(NOT_HTTP, shown(answer))
    code = int(status)
    low, high = check.statuses
    if not low <= code <= high:
        return True, Wrong(f"it answered {code}", _seen(line, answer[at + 1 :].partition(b"\r\n\r\n")[2]))
    return _text_found(check, answer, line, ended=ended, seen=seen) if check.text else (True, None)


def _text_found(check: Check, answer: bytes, line: bytes, *, ended: bool, seen: int) -> tuple[bool, Wrong | None]:
    blank = answer.find(b"\r\n\r\n")
    if blank < 0 and not ended and len(answer) < MAX_HEAD:
        return False, None
    text, body = check.text.encode(), len(answer) if blank < 0 else blank + 4
    if answer.find(text, max(body, seen - len(text) + 1), body + MAX_BODY) >= 0:
        return True, None
    if not ended and blank >= 0:
        length = _LENGTH.search(answer, 0, body)
        if len(answer) - body < min(MAX_BODY, int(length[1]) if length else MAX_BODY):
            return False, None
    return True, Wrong("the expected text is not in its answer", _seen(line, answer[body:]))


def _seen(line: bytes, body: bytes) -> str:
    return f"{shown(line)}\n{shown(body)}".strip()
