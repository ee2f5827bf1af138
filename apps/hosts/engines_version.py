"""Versions of engines, comparable."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def number_of(version: str) -> int:
    """One number that compares as versions do: 20.10.5 is 20010005; 0 for what is none."""
    found = _NUMBERS.match(version)
    if found is None:
        return 0
    major, minor, patch = (int(part or 0) for part in found.groups())
    return (major * 1000 + minor) * 1000 + patch
