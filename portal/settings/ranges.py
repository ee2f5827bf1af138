"""Ranges of ports in settings."""

from __future__ import annotations

import re

from django.core.exceptions import ImproperlyConfigured


def port_range(name: str, text: str) -> tuple[int, int] | None:
    """First and last port of ``20000-20099``; None where nothing is given. Raises ImproperlyConfigured."""
    text = text.strip()
    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})", text)
    first, last = (int(found[1]), int(found[2])) if found else (1, 0)
    if not first <= last <= 65535:
        raise ImproperlyConfigured(f"{name}: FIRST-LAST is expected, such as 20000-20099.")
    return first, last
