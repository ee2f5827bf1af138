"""SIGTERM and a closed terminal count as Ctrl-C, so that every way to end a run stops what it started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raises KeyboardInterrupt for them in the main thread, as for SIGINT; puts the old handlers back."""
    # A shell starts background jobs with SIGINT ignored; kill -INT must work there as well.
    before = {number: signal.signal(number, _interrupt) for number in (*_SIGNALS, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
