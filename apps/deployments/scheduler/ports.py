"""Which ports of a host come next."""

from __future__ import annotations

from collections.abc import Collection


def next_ports(low: int, high: int, start: int, taken: Collection[int], count: int) -> list[int]:
    """Up to ``count`` free ports from ``start`` on, going round the range, so that a freed one is used again late."""
    size = high - low + 1
    begin = start - low if low <= start <= high else 0
    found: list[int] = []
    for step in range(size):
        if len(found) == count:
            break
        port = low + (begin + step) % size
        if port not in taken:
            found.append(port)
    return found
