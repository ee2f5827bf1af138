"""Patterns of tags: made of what tags are made of, with ``*`` for any characters and ``?`` for one. Pure."""

from __future__ import annotations

import re

_PATTERN = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")


def is_pattern(text: str) -> bool:
    return _PATTERN.fullmatch(text) is not None


def matches(pattern: str, tag: str) -> bool:
    """Whether the whole tag is as the pattern says. In time of the one's length times the other's, whatever it is."""
    at, star, retry = 0, -1, 0
    where = 0
    while where < len(tag):
        if at < len(pattern) and pattern[at] == "*":
            star, retry, at = at, where, at + 1
        elif at < len(pattern) and pattern[at] in ("?", tag[where]):
            at, where = at + 1, where + 1
        elif star >= 0:
            # The last star takes one character more; those before it need not be tried again.
            retry += 1
            at, where = star + 1, retry
        else:
            return False
    return not pattern[at:].strip("*")
