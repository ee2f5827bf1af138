"""Which processes are our HAProxy's; only those are ever signalled.

A process id says nothing by itself: it may have been given to somebody else since. The command line does:
the binary's name, and our configuration's path, which no other gateway shares.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

EXECUTING_TRIES = 50


def is_ours(pid: int, config: Path) -> bool:
    arguments = _command_line(pid).split(b"\0")
    return Path(os.fsdecode(arguments[0])).name == "haproxy" and os.fsencode(config) in arguments


def _command_line(pid: int) -> bytes:
    """Empty for processes that are gone, zombies and the kernel's own.

    It is also empty for a moment while a process executes another image, and HAProxy's master executes itself
    anew after each start and reload; then, unlike in the other cases, there is an executable to be seen.
    """
    for _ in range(EXECUTING_TRIES):
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
            if raw:
                return raw
            Path(f"/proc/{pid}/exe").readlink()
        except OSError:
            return b""
        time.sleep(0.001)
    return b""


def ours(config: Path) -> list[int]:
    """Every process of ours, in no order: masters, workers, and workers whose master is dead."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if is_ours(pid, config)]


def send(pid: int, config: Path, number: signal.Signals) -> None:
    if is_ours(pid, config):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def await_end(pids: Iterable[int], config: Path, seconds: float) -> list[int]:
    """Waits until they have ended; returns those that have not."""
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if is_ours(pid, config)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if is_ours(pid, config)]
    return left
