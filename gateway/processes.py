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


def is_ours(pid: int, config: Path) -> bool:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    arguments = raw.split(b"\0")
    return Path(os.fsdecode(arguments[0])).name == "haproxy" and os.fsencode(config) in arguments


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
