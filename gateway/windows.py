"""What was counted of one version of an app lately: in the last 10 s, the last minute, the last hour.

Each of them is a ring of buckets of its own width. A bucket that is over is folded into the next ring and kept as a few
bytes: only what is not zero. A version that answers many kinds of requests each second takes 13 KiB, an idle one 1 KiB.
Not safe for threads: `Counters` has the lock.
"""

from __future__ import annotations

import struct
from itertools import chain

from gateway.contract import ANSWER_BUCKETS, STATUS_CLASSES, WINDOWS, Window

#: Cells of a bucket: requests by class, then these, then answer times.
BYTES_IN = len(STATUS_CLASSES)
BYTES_OUT = BYTES_IN + 1
#: Milliseconds that requests took: of each the first 10 s, the rest of its first minute, the rest of its first hour.
#: In a window of 10 s no request is in progress for longer, and what is counted shows up when it ends.
BUSY = BYTES_IN + 2
LONG = BYTES_IN + 3
LONGER = BYTES_IN + 4
TIMES = BYTES_IN + 5
CELLS = TIMES + ANSWER_BUCKETS

BUSY_MS = 10_000
LONG_MS = 60_000
LONGER_MS = 3_600_000

#: By window: the seconds that one bucket of its ring is wide.
_WIDTHS = {"10s": 1, "1m": 5, "1h": 60}
_HEAD = struct.Struct("<Q")
_CELL = struct.Struct("<BQ")
_BUSY_OF = {"10s": (BUSY,), "1m": (BUSY, LONG), "1h": (BUSY, LONG, LONGER)}


class _Ring:
    """Closed buckets, the oldest first, and the one that grows. ``number`` is time divided by the width."""

    __slots__ = ("closed", "growing", "keep", "number", "width")

    def __init__(self, seconds: int, width: int) -> None:
        self.width = width
        self.keep = seconds // width
        self.number = -1
        self.growing: dict[int, int] = {}
        self.closed: list[bytes] = []

    def fold(self, second: int, cells: list[tuple[int, int]]) -> None:
        """What was counted in a second, none of them before the last one."""
        number = second // self.width
        if number != self.number:
            self._close(number)
        growing = self.growing
        for cell, count in cells:
            growing[cell] = growing.get(cell, 0) + count

    def _close(self, number: int) -> None:
        if self.growing:
            packed = struct.pack("<Q" + "BQ" * len(self.growing), self.number, *chain(*self.growing.items()))
            self.closed.append(packed)
            self.growing = {}
        self.number = number
        while self.closed and _HEAD.unpack_from(self.closed[0])[0] <= number - self.keep:
            self.closed.pop(0)

    def add_to(self, cells: list[int], second: int) -> None:
        oldest = second // self.width - self.keep
        for packed in self.closed:
            if _HEAD.unpack_from(packed)[0] > oldest:
                for cell, count in _CELL.iter_unpack(memoryview(packed)[_HEAD.size :]):
                    cells[cell] += count
        if self.number > oldest:
            for cell, count in self.growing.items():
                cells[cell] += count


class Flow:
    """Whoever counts adds to ``cells``, after `roll` where ``second`` is another than now.

    ``totals``: bytes in, bytes out and milliseconds of all time, which belong to the app.
    """

    __slots__ = ("_rings", "_totals", "cells", "second")

    def __init__(self, totals: list[int]) -> None:
        self.second = -1
        self.cells = [0] * CELLS
        self._totals = totals
        self._rings = tuple(_Ring(seconds, _WIDTHS[name]) for name, seconds in WINDOWS.items())

    def roll(self, second: int) -> None:
        cells = self.cells
        counted = [(cell, count) for cell, count in enumerate(cells) if count]
        if counted:
            for ring in self._rings:
                ring.fold(self.second, counted)
            totals = self._totals
            totals[0] += cells[BYTES_IN]
            totals[1] += cells[BYTES_OUT]
            totals[2] += cells[BUSY] + cells[LONG] + cells[LONGER]
            self.cells = [0] * CELLS
        self.second = second

    def windows(self, now: float, age: float) -> dict[str, Window]:
        """``age``: for how long there was somebody to count at all, in seconds."""
        second = int(now)
        # Clocks that are read by two threads may seem to go back by a moment.
        self.roll(max(second, self.second))
        return {
            name: self._window(name, ring, second, min(age, (ring.keep - 1) * ring.width + now % ring.width))
            for name, ring in zip(WINDOWS, self._rings, strict=True)
        }

    def _window(self, name: str, ring: _Ring, second: int, covered: float) -> Window:
        cells = [0] * CELLS
        ring.add_to(cells, second)
        return Window(
            seconds=round(max(covered, 0.001), 3),
            classes=dict(zip(STATUS_CLASSES, cells, strict=False)),
            bytes_in=cells[BYTES_IN],
            bytes_out=cells[BYTES_OUT],
            busy_ms=sum(cells[cell] for cell in _BUSY_OF[name]),
            histogram=tuple(cells[TIMES:]),
        )
