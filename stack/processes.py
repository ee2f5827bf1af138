"""Which processes belong to an environment, and how they are ended.

Every process of an environment inherits ``BERTH_STACK_ID``, so they can be found after any crash, also when
supervisord and the pid files are gone. Processes in containers do not have it: they end with the PID
namespace of their engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MARKER = "BERTH_STACK_ID"


def stack_id(directory: Path) -> str:
    """Ten characters of [a-z0-9], the same for a directory at every run.

    The root directory's inode counts too: a chroot on this machine has the same paths but shares the network
    interfaces and the process table.
    """
    root = Path("/").stat()
    text = f"{directory.resolve()}|{root.st_dev}|{root.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def wait_until(condition: Callable[[], bool], timeout_s: float, interval_s: float = 0.05) -> bool:
    """True as soon as the condition holds; false when it did not within the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        if condition():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_s)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def all_pids() -> Iterator[int]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of entries, called in a loop
        if name.isdigit():
            yield int(name)


def marked(identity: str) -> list[int]:
    """Pids of the environment's processes that still run, never this process or those above it."""
    needle = f"{MARKER}={identity}".encode()
    ours = set(ancestors(os.getpid()))
    found = []
    for pid in all_pids():
        if pid in ours:
            continue
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and alive(pid):
                found.append(pid)
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = parent(pid)


def parent(pid: int) -> int:
    """The parent's pid; 0 when there is none to see."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def descendants(pid: int) -> list[int]:
    """All processes below this one, parents first."""
    children: dict[int, list[int]] = {}
    for other in all_pids():
        children.setdefault(parent(other), []).append(other)
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def sweep(identity: str, *, grace_s: float = 0.0) -> list[str]:
    """Ends whatever of the environment still runs; returns the command lines of what it had to end.

    With a grace, SIGTERM first. Raises TimeoutError when something survives SIGKILL for ten seconds, which
    only a process stuck in the kernel does.
    """
    left = marked(identity)
    if not left:
        return []
    ended = [command_line(pid) for pid in left]
    if grace_s:
        for pid in left:
            send(pid, signal.SIGTERM)
        wait_until(lambda: not marked(identity), grace_s)

    def gone() -> bool:
        remaining = marked(identity)
        for pid in remaining:
            send(pid, signal.SIGKILL)
        return not remaining

    if not wait_until(gone, 10.0):
        raise TimeoutError(f"processes survive SIGKILL: {[command_line(pid) for pid in marked(identity)]}")
    return ended
