"""How fast placement commits: real PostgreSQL, hosts in memory, worker processes that race.

    python -m benchmarks.placement             (make bench-placement)
    python -m benchmarks.placement --quick     fewer rounds and placements, to see that it runs

Measured is ``instances_place``: search, claim, commit. A commit waits for the disk (fsync), unless --careless.
Every figure at a size is a median over rounds in which the cases take turns, since absolute times are noisy here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.report import report, tell

BATCH = 50


@dataclass(frozen=True)
class Case:
    hosts: int
    fill: float
    workers: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.hosts} hosts, {self.fill:.0%} full, {self.workers} workers, batches of {self.batch}"


@dataclass
class Measured:
    per_s: float
    p50_ms: float
    p99_ms: float
    retries_per_placement: float
    placed: int
    violations: dict[str, int] = field(default_factory=dict)


def _worker(index: int, workers: int, case: Case, calls: int, start: Barrier, answers: Any) -> None:
    try:
        answers.put(_work(index, workers, case, calls, start))
    except BaseException as error:
        # The others would wait at the barrier for ever, and the parent for an answer.
        start.abort()
        answers.put(error)
        raise


def _work(index: int, workers: int, case: Case, calls: int, start: Barrier) -> tuple[float, float, list[float], int]:
    import django

    django.setup()
    from django.db import connection

    from apps.deployments.models import ReplicaSet
    from apps.deployments.services import placement

    attempts = 0
    attempt = placement._attempt

    def counted(ask: placement.Ask, *, optimistic: bool) -> Any:
        nonlocal attempts
        attempts += 1
        return attempt(ask, optimistic=optimistic)

    placement._attempt = counted
    rows = ReplicaSet.objects.select_related("release", "app__cluster").order_by("pk")
    mine = list(rows)[index::workers]
    # The first calls of a process pay for imports, plans and caches that later ones don't.
    for replica_set in mine[-3:]:
        placement.instances_place(replica_set=replica_set, count=case.batch)
    attempts = 0
    start.wait()
    began = time.perf_counter()
    times = []
    for number in range(calls):
        before = time.perf_counter()
        placement.instances_place(replica_set=mine[(number * 7) % len(mine)], count=case.batch)
        times.append(time.perf_counter() - before)
    ended = time.perf_counter()
    connection.close()
    return began, ended, times, attempts


def measure(case: Case, calls: int) -> Measured:
    """``calls`` in all, shared among the workers, on a cluster that the caller has made."""
    from benchmarks.placement_data import violations

    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(case.workers), context.Queue()
    each = max(1, calls // case.workers)
    workers = [
        context.Process(target=_worker, args=(index, case.workers, case, each, start, answers))
        for index in range(case.workers)
    ]
    for worker in workers:
        worker.start()
    told = [answers.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    if failed := [one for one in told if isinstance(one, BaseException)]:
        raise RuntimeError(f"a worker failed: {failed[0]!r}")
    # perf_counter is the machine's monotonic clock on Linux: the same in all processes.
    seconds = max(ended for _, ended, _, _ in told) - min(began for began, _, _, _ in told)
    times = sorted(one * 1000 for _, _, some, _ in told for one in some)
    done = each * case.workers
    attempts = sum(number for *_, number in told)
    return Measured(
        per_s=round(done * case.batch / seconds, 1),
        p50_ms=round(statistics.median(times), 2),
        p99_ms=round(times[min(len(times) - 1, int(len(times) * 0.99))], 2),
        retries_per_placement=round((attempts - done) / (done * case.batch), 4),
        placed=done * case.batch,
        violations=violations(),
    )


def machine() -> dict[str, float]:
    """How fast the machine is at this moment, without any of ours: rates of two runs are compared by these."""
    from django.db import connection, transaction

    began = time.perf_counter()
    sum(number * number for number in range(2_000_000))
    python_ms = (time.perf_counter() - began) * 1000
    commits = []
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bench_commits (n integer)")
        for _ in range(100):
            began = time.perf_counter()
            with transaction.atomic():
                cursor.execute("INSERT INTO bench_commits VALUES (1)")
            commits.append((time.perf_counter() - began) * 1000)
        cursor.execute("DROP TABLE bench_commits")
    return {"python_2m_steps_ms": round(python_ms, 1), "insert_and_commit_ms": round(statistics.median(commits), 2)}


def run(sizes: Sequence[int], rounds: int, scale: float) -> tuple[dict[str, float], dict[str, Any]]:
    """All cases; returns the figures and what they come from."""
    from benchmarks.placement_data import SLOTS, make

    found: dict[Case, list[Measured]] = {}
    for turn in range(rounds):
        for hosts in sizes:
            largest = hosts == max(sizes)
            # Empty and nearly full one after the other, since they are compared.
            for fill in (0.0, 0.9, 0.5):
                # 4 and 8 workers where it matters most: the largest cluster, half full.
                crowds = (1, 2, 4, 8) if largest and fill == 0.5 else (1,)
                for batch in (1, BATCH):
                    for workers in crowds:
                        case = Case(hosts, fill, workers, batch)
                        # No more than a third of what is free, or the case would not be the one that it says.
                        room = int(hosts * SLOTS * (1 - fill) / 3 / batch) - 3 * workers
                        calls = max(workers, min(int((800 if batch == 1 else 160) * scale), room))
                        instances = make(hosts, fill)
                        result = measure(case, calls)
                        found.setdefault(case, []).append(result)
                        tell(f"{turn + 1}/{rounds}  {case.name}: {instances} there, {result.per_s:g}/s")
    return _figures(found, max(sizes)), {case.name: [vars(one) for one in results] for case, results in found.items()}


def _figures(found: dict[Case, list[Measured]], hosts: int) -> dict[str, float]:
    def of(fill: float, workers: int, batch: int, key: str = "per_s", size: int = hosts) -> float:
        return statistics.median(getattr(one, key) for one in found[Case(size, fill, workers, batch)])

    def against_one(workers: int) -> float:
        """The worse of the two kinds, each round against the same round's."""
        return min(
            statistics.median(
                many.per_s / one.per_s
                for many, one in zip(
                    found[Case(hosts, 0.5, workers, batch)], found[Case(hosts, 0.5, 1, batch)], strict=True
                )
            )
            for batch in (1, BATCH)
        )

    def filled(batch: int) -> float:
        pairs = zip(found[Case(hosts, 0.9, 1, batch)], found[Case(hosts, 0.0, 1, batch)], strict=True)
        return statistics.median(full.per_s / empty.per_s for full, empty in pairs)

    every = [one for results in found.values() for one in results]
    figures = {
        f"batch_per_s_{hosts}": of(0.5, 1, BATCH),
        f"single_per_s_{hosts}": of(0.5, 1, 1),
        f"batch_per_s_{hosts}_best": max(of(0.5, workers, BATCH) for workers in (1, 2, 4, 8)),
        f"single_per_s_{hosts}_best": max(of(0.5, workers, 1) for workers in (1, 2, 4, 8)),
        f"single_p50_ms_{hosts}": of(0.5, 1, 1, "p50_ms"),
        f"single_p99_ms_{hosts}": of(0.5, 1, 1, "p99_ms"),
        f"fill90_ratio_{hosts}": round(min(filled(1), filled(BATCH)), 3),
        f"workers4_ratio_{hosts}": round(against_one(4), 3),
        f"workers8_ratio_{hosts}": round(against_one(8), 3),
        "retries_per_placement": max(one.retries_per_placement for one in every),
        "violations": sum(sum(one.violations.values()) for one in every),
    }
    for size in sorted({case.hosts for case in found} - {hosts}):
        figures[f"batch_per_s_{size}"] = of(0.5, 1, BATCH, size=size)
        figures[f"single_per_s_{size}"] = of(0.5, 1, 1, size=size)
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000], help="numbers of hosts")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="one short round")
    arguments.add_argument("--careless", action="store_true", help="commits don't wait for the disk")
    given = arguments.parse_args()

    from stack.environment import Environment, root_directory
    from stack.parts.postgres import postgres
    from stack.runner import Stack

    env = Environment.open(root_directory() / "bench", "test")
    with Stack(env.directory, [postgres(env, durable=not given.careless)], say=tell, forget=("postgres",)):
        os.environ.update(env.variables())
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings.test"
        os.environ["BERTH_LOG_LEVEL"] = "WARNING"
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        speed = [machine()]
        figures, detail = run(given.sizes, 1 if given.quick else given.rounds, 0.2 if given.quick else 1.0)
        speed.append(machine())
        about = {"durable": not given.careless, "batch": BATCH, "machine": speed}
        report("placement", figures, {**about, "cases": detail})


if __name__ == "__main__":
    main()
