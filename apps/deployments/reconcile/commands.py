"""Checks that are commands: through the engine, in a few threads, so that an engine that hangs keeps no one waiting."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from apps.deployments.checks import Check
from apps.deployments.reconcile.answers import Wrong, shown
from apps.hosts.engines.base import EngineError, RunsChecks

#: Threads of one process, and how many of them one host may have: an engine that hangs leaves the others theirs.
THREADS = 16
THREADS_PER_HOST = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A command check of an instance. ``pk`` is whatever the asker knows it by."""

    pk: int
    host_id: int
    container: str
    check: Check


Run = Callable[[Command], Wrong | None]


def run(engine: RunsChecks, command: Command) -> Wrong | None:
    """Ask now. What the engine does not answer proves nothing."""
    check = command.check
    try:
        result = engine.check(command.container, check.command, timeout_s=check.timeout_s)
    except EngineError as error:
        return Wrong(f"it could not be asked ({error.code})", proven=False)
    if result.exit_code == 0:
        return None
    if result.exit_code is None:
        return Wrong(f"it did not end within {check.timeout_s} s", shown(result.output))
    return Wrong(f"it ended with exit code {result.exit_code}", shown(result.output))


class Commands:
    """Commands under way. ``ask`` begins one, or puts it in its host's queue; one thread uses this."""

    def __init__(self, *, threads: int = THREADS, per_host: int = THREADS_PER_HOST) -> None:
        self._threads = threads
        self._per_host = per_host
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[int, deque[tuple[Command, RunsChecks]]] = defaultdict(deque)
        self._running: dict[int, int] = defaultdict(int)
        self._done: SimpleQueue[tuple[Command, Wrong | None]] = SimpleQueue()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def ask(self, command: Command, engine: RunsChecks) -> None:
        self._count += 1
        self._waiting[command.host_id].append((command, engine))
        self._begin(command.host_id)

    def answers(self) -> Sequence[tuple[Command, Wrong | None]]:
        """Those that have ended; waits for none."""
        found: list[tuple[Command, Wrong | None]] = []
        while True:
            try:
                command, wrong = self._done.get_nowait()
            except Empty:
                return found
            self._count -= 1
            self._running[command.host_id] -= 1
            self._begin(command.host_id)
            found.append((command, wrong))

    def forget_waiting(self) -> None:
        """What has not begun is left to the next pass."""
        for waiting in self._waiting.values():
            self._count -= len(waiting)
            waiting.clear()

    def close(self) -> None:
        """Wait for nothing: what hangs ends by its own time-outs."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, host_id: int) -> None:
        waiting = self._waiting[host_id]
        while waiting and self._running[host_id] < self._per_host:
            command, engine = waiting.popleft()
            self._running[host_id] += 1
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="check")
            self._pool.submit(self._work, command, engine)

    def _work(self, command: Command, engine: RunsChecks) -> None:
        try:
            wrong = run(engine, command)
        except Exception as error:  # an answer must come back, or its instance is never asked again
            wrong = Wrong(f"it could not be asked ({type(error).__name__})", proven=False)
        self._done.put((command, wrong))
