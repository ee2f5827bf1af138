"""Checks that are commands: through the engine, in a few threads, so that an engine that hangs keeps no one waiting."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from apps.deployments.checks import Check
from apps.deployments.reconcile.answers import Wrong, shown
from apps.hosts.engines.base import EngineError, RunsChecks

#: Threads of one process, and how many of them one host may have: an engine that hangs leaves the others theirs. One
#: tenant has one less on each host, and this part of all: commands that take their minute leave the others theirs.
THREADS = 16
THREADS_PER_HOST = 2
TENANTS_PART = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A command check of an instance. ``pk`` is whatever the asker knows it by."""

    pk: int
    host_id: int
    container: str
    check: Check
    tenant_id: int


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
        #: By host and tenant; on each host the tenant that began last comes last.
        self._waiting: dict[int, dict[int, deque[tuple[Command, RunsChecks]]]] = defaultdict(dict)
        self._on_host: Counter[int] = Counter()
        self._of_tenant: Counter[int] = Counter()
        self._of_both: Counter[tuple[int, int]] = Counter()
        self._done: SimpleQueue[tuple[Command, Wrong | None]] = SimpleQueue()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def ask(self, command: Command, engine: RunsChecks) -> None:
        self._count += 1
        self._waiting[command.host_id].setdefault(command.tenant_id, deque()).append((command, engine))
        self._begin(command.host_id)

    def answers(self) -> Sequence[tuple[Command, Wrong | None]]:
        """Those that have ended; waits for none."""
        found: list[tuple[Command, Wrong | None]] = []
        while True:
            try:
                command, wrong = self._done.get_nowait()
            except Empty:
                break
            self._count -= 1
            self._counted(command, -1)
            found.append((command, wrong))
        if found:
            # What a tenant has on one host may have kept it from beginning on another.
            for host_id in list(self._waiting):
                self._begin(host_id)
        return found

    def forget_waiting(self) -> None:
        """What has not begun is left to the next pass."""
        for of_tenants in self._waiting.values():
            self._count -= sum(map(len, of_tenants.values()))
        self._waiting.clear()

    def close(self) -> None:
        """Wait for nothing: what hangs ends by its own time-outs."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, host_id: int) -> None:
        of_tenants = self._waiting[host_id]
        while self._on_host[host_id] < self._per_host:
            tenant_id = next((one for one in of_tenants if self._room(host_id, one)), None)
            if tenant_id is None:
                break
            waiting = of_tenants.pop(tenant_id)
            command, engine = waiting.popleft()
            if waiting:
                of_tenants[tenant_id] = waiting
            self._counted(command, 1)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="check")
            self._pool.submit(self._work, command, engine)
        if not of_tenants:
            del self._waiting[host_id]

    def _room(self, host_id: int, tenant_id: int) -> bool:
        """Whether this tenant may have one more thread, and one more on this host."""
        at_once = self._of_tenant[tenant_id] < max(1, self._threads // TENANTS_PART)
        return at_once and self._of_both[host_id, tenant_id] < max(1, self._per_host - 1)

    def _counted(self, command: Command, by: int) -> None:
        self._on_host[command.host_id] += by
        self._of_tenant[command.tenant_id] += by
        self._of_both[command.host_id, command.tenant_id] += by

    def _work(self, command: Command, engine: RunsChecks) -> None:
        try:
            wrong = run(engine, command)
        except Exception as error:  # an answer must come back, or its instance is never asked again
            wrong = Wrong(f"it could not be asked ({type(error).__name__})", proven=False)
        self._done.put((command, wrong))
