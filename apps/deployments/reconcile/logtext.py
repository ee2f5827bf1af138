"""What a container wrote, made fit to be kept and shown: without controls, without secrets, and of bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LINES = 200
SIZE = 64 * 1024
MASK = "••••"
#: What is shorter stands in any text by chance.
SECRET_MIN = 6

# ECMA-48: CSI sequences; OSC, DCS, SOS, PM and APC strings with their ends; and the two-character escapes.
_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Without escape sequences and control characters, new line and tabulator kept."""
    return _CONTROLS.sub("", _ANSI.sub("", text))


def masked(text: str, secrets: Iterable[str]) -> str:
    """With these values hidden, also where each stands in one line as JSON or a program's own quotes have it.

    Of a value of several lines each line is hidden, as the text may begin in the middle of it.
    """
    hidden: set[str] = set()
    for secret in secrets:
        quoted = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
        for form in (secret, *secret.splitlines(), *quoted):
            hidden |= {form, plain(form), plain(form).strip()}
    # The longest first: a shorter one may be part of it, and would leave the rest to read.
    for one in sorted((one for one in hidden if len(one) >= SECRET_MIN), key=len, reverse=True):
        text = text.replace(one, MASK)
    return text


def readable(raw: bytes, secrets: Iterable[str], *, lines: int = LINES, size: int = SIZE) -> tuple[str, bool]:
    """The last lines, of at most ``size`` bytes of UTF-8; and whether there was more.

    Masked before it is cut: half a secret would not be known for one.
    """
    text = masked(plain(raw.decode("utf-8", "replace")), secrets)
    kept = text.split("\n")
    ends = kept[-1] == ""
    wanted = lines + (1 if ends else 0)
    cut = len(kept) > wanted
    text = "\n".join(kept[-wanted:])
    whole = text.encode()
    if len(whole) > size:
        cut = True
        text = whole[-size:].decode("utf-8", "ignore")
        # From the beginning of a line on, unless it is all one.
        text = text.partition("\n")[2] or text
    return text, cut
