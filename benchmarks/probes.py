"""How many instances one worker on one core can ask how they are, and how evenly: 10,000 targets on this machine.

    python -m benchmarks.probes             (make bench-probes; under a minute)
    python -m benchmarks.probes --quick     a tenth of the targets, to see that it runs

Real PostgreSQL and real sockets: targets answer ``GET /_ping`` from processes of their own. Measured is what a worker
does all day long (``shards.Probing``), reading instances included, held to one core; first every 10 s, then at the
default interval.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.report import report, tell

PORTS = range(10100, 10200)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
SERVERS = 2


class _Target(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(ANSWER)
        self.transport.close()


def _serve(ports: Sequence[int], cores: set[int], ready: Any) -> None:
    os.sched_setaffinity(0, cores)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for port in ports:
            # Every address of loopback at once: 100 ports are 10,000 targets at 100 addresses.
            await loop.create_server(_Target, "0.0.0.0", port, backlog=1024)  # noqa: S104
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(main())


def _make(count: int) -> None:
    """So many instances, all ready, of releases that are checked by HTTP."""
    from apps.core.clock import now
    from apps.deployments.models import Instance, ReplicaSet
    from apps.hosts.models import Host
    from benchmarks.placement_data import make

    addresses = -(-count // len(PORTS))
    make(addresses, 0.0)
    hosts = list(Host.objects.order_by("pk"))
    for number, host in enumerate(hosts):
        host.address = f"127.9.{number // 250}.{number % 250 + 1}"
        host.last_seen_at = now()
    Host.objects.bulk_update(hosts, ["address", "last_seen_at"])
    sets = list(ReplicaSet.objects.order_by("pk"))
    Instance.objects.bulk_create(
        [
            Instance(
                app_id=sets[number % len(sets)].app_id,
                replica_set=sets[number % len(sets)],
                host=hosts[number // len(PORTS)],
                port=PORTS[number % len(PORTS)],
                status=Instance.Status.HEALTHY,
                container_id=f"{number:064x}",
                was_routed=True,
            )
            for number in range(count)
        ],
        batch_size=1000,
    )


def measure(interval_s: int, seconds: float) -> dict[str, float]:
    from apps.deployments.models import Instance, Release
    from apps.deployments.reconcile import Clients
    from apps.deployments.reconcile.shards import Probing

    Release.objects.update(health_path="/_ping", readiness={"kind": "http", "interval_s": interval_s})
    asked: dict[int, list[float]] = defaultdict(list)
    probing = Probing(Clients(), 0, 1)
    probing.on_ask = lambda key, at: asked[key].append(at)
    began, cpu = time.time(), time.process_time()
    probing.go_on(began, began + seconds, lambda: False)
    probing.wait(lambda: False)
    used, took = time.process_time() - cpu, time.time() - began
    probing.close()
    off = [abs(later - earlier - interval_s) for times in asked.values() for earlier, later in pairwise(times)]
    expected = Instance.objects.count() * seconds / interval_s
    return {
        "asked": probing.count,
        "asked_of_expected": round(probing.count / expected, 4),
        "cpu_us_per_probe": round(used / probing.count * 1e6, 1),
        "core_share": round(used / took, 3),
        "targets_per_core_10s": int(10 / (used / probing.count)),
        "interval_deviation_p50_ms": round(statistics.median(off) * 1000, 2),
        "interval_deviation_p95_ms": round(statistics.quantiles(off, n=20)[-1] * 1000, 2),
        "interval_deviation_max_ms": round(max(off) * 1000, 2),
        "wrong": Instance.objects.filter(failures__gt=0).count(),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--targets", type=int, default=10_000)
    arguments.add_argument("--quick", action="store_true")
    given = arguments.parse_args()
    targets = given.targets // 10 if given.quick else given.targets

    from stack.environment import Environment, root_directory
    from stack.parts.postgres import postgres
    from stack.runner import Stack

    env = Environment.open(root_directory() / "bench", "test")
    with Stack(env.directory, [postgres(env)], say=tell, forget=("postgres",)):
        os.environ.update(env.variables())
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings.test"
        os.environ["BERTH_LOG_LEVEL"] = "WARNING"
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        _make(targets)
        every = sorted(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        servers = []
        for number in range(SERVERS):
            ready = context.Event()
            cores = set(every[1:] or every)
            server = context.Process(target=_serve, args=(PORTS[number::SERVERS], cores, ready), daemon=True)
            server.start()
            servers.append(server)
            if not ready.wait(30):
                raise SystemExit("the targets do not listen")
        try:
            os.sched_setaffinity(0, {every[0]})
            found = {}
            for interval_s, seconds in ((10, 21.0), (2, 9.0)):
                found[interval_s] = measure(interval_s, seconds)
                one = found[interval_s]
                tell(
                    f"every {interval_s} s: {one['asked']} asked, {one['core_share']:.0%} of a core, "
                    f"{one['interval_deviation_p95_ms']} ms off (p95)"
                )
        finally:
            for server in servers:
                server.terminate()
                server.join()
    keys = ("targets_per_core_10s", "interval_deviation_p95_ms", "cpu_us_per_probe", "wrong")
    figures = {key: found[10][key] for key in keys}
    figures["core_share_at_default_interval"] = found[2]["core_share"]
    report("probes", figures, {"targets": targets, "every_10_s": found[10], "every_2_s": found[2]})


if __name__ == "__main__":
    main()
