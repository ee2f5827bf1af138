"""The gateway with 10,000 apps and 50,000 instances: requests a second, changes, failures, memory, starts, attacks.

    python -m benchmarks.gateway                      (make bench-gateway; about ten minutes, two cores to itself)
    python -m benchmarks.gateway --quick              200 apps and a few seconds of each part, to see that it runs
    python -m benchmarks.gateway --only rps,changes   only these; of the keys, only theirs are told

The real agent and HAProxy, fed by a real ZooKeeper; nginx as backends, and wrk as the load. A proxy that is measured
has one core to itself, all else shares the other.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import gateway_attacks, gateway_changes, gateway_parts, gateway_rps
from benchmarks.gateway_changes import Changing
from benchmarks.gateway_parts import Fleet, Publishing
from benchmarks.report import report, tell
from gateway.tests.parts import Gateway, until
from gateway.tests.zookeeper import ZooKeeper, free_port

PARTS = ("memory", "changes", "failures", "reloads", "kills", "resync", "cold", "rps", "attacks")
#: Reloads are for what happens in them, not for how long one takes: fifty with a tenth of the apps.
RELOAD_SHARE = 10
NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class Size:
    apps: int = 10_000
    rounds: int = 12
    seconds: float = 4
    changes: int = 1000
    changes_seconds: float = 120
    failures_seconds: float = 40
    reloads: int = 50
    kills: int = 25
    attack_rounds: int = 5


QUICK = Size(apps=200, rounds=1, seconds=1, changes=10, changes_seconds=20, failures_seconds=1, reloads=1, kills=1,
             attack_rounds=1)  # fmt: skip


class Bench:
    """``figures`` and ``detail`` grow with each part."""

    def __init__(self, size: Size, directory: Path) -> None:
        self.size = size
        self.directory = directory
        self.figures: dict[str, float] = {}
        self.detail: dict[str, Any] = {"apps": size.apps, "instances": size.apps * gateway_parts.PORTS_PER_APP}
        self._stack = ExitStack()

    def run(self, wanted: frozenset[str]) -> None:
        with self._stack:
            ports = tuple(free_port() for _ in range(gateway_parts.PORTS_PER_APP))
            self._stack.enter_context(gateway_parts.backends(self.directory / "backends", ports))
            fleet = Fleet(self.size.apps, ports)
            at, zookeeper = self._serving("full", fleet)
            for name in ("memory", "changes", "failures", "kills", "attacks", "resync"):
                if name in wanted:
                    tell(f"{name} ...")
                    getattr(self, f"_{name}")(at, zookeeper)
            at.gateway.signal(signal.SIGTERM)
            zookeeper.stop()
            at.gateway.set("BERTH_ZOOKEEPER", NOWHERE)
            if "cold" in wanted:
                self._cold(at)
            if "rps" in wanted:
                self._rps(at)
            if "reloads" in wanted:
                small, _ = self._serving("small", Fleet(max(20, self.size.apps // RELOAD_SHARE), ports))
                self._reloads(small)
            self._sum_up()

    def _serving(self, name: str, fleet: Fleet) -> tuple[Changing, ZooKeeper]:
        """A ZooKeeper and a gateway of its own that serves a fleet."""
        zookeeper = ZooKeeper(self.directory / f"{name}-zookeeper")
        self._stack.callback(zookeeper.stop)
        zookeeper.start()
        publisher = Publishing(zookeeper.hosts)
        self._stack.callback(publisher.close)
        publisher.build()
        began = time.monotonic()
        publisher.publish_fleet(fleet, range(fleet.apps))
        tell(f"{fleet.apps} apps written in {time.monotonic() - began:.1f} s")
        gateway = Gateway(
            self.directory / f"{name}-gateway",
            zookeeper.hosts,
            BERTH_GATEWAY_THREADS="1",
            BERTH_GATEWAY_SESSION_SECONDS="6",
            BERTH_GATEWAY_MAX_CONNECTIONS="6000",
        )
        self._stack.callback(gateway.end)
        began = time.monotonic()
        gateway.start()
        at = Changing(gateway, publisher, fleet)
        at.await_all(180)
        self.detail[f"{name}_read_all_s"] = round(time.monotonic() - began, 2)
        tell(f"{fleet.apps} apps read and served in {time.monotonic() - began:.1f} s")
        gateway_rps.pin(gateway)
        return at, zookeeper

    # The parts

    def _memory(self, at: Changing, zookeeper: ZooKeeper) -> None:
        haproxy = gateway_parts.memory_mb(at.gateway.haproxies())
        agent = gateway_parts.memory_mb([at.gateway.pid])
        self.figures["memory_mb_10k_50k"] = round(haproxy + agent, 1)
        self.detail["memory_mb"] = {"haproxy": round(haproxy, 1), "agent": round(agent, 1)}

    def _changes(self, at: Changing, zookeeper: ZooKeeper) -> None:
        found = gateway_changes.latency(at, self.size.changes, self.size.changes_seconds)
        self.figures["change_to_live_p50_ms"] = found["p50_ms"]
        self.figures["change_to_live_p99_ms"] = found["p99_ms"]
        self.detail["changes"] = found
        self.detail["at_once"] = gateway_changes.at_once(at, self.size.changes)

    def _failures(self, at: Changing, zookeeper: ZooKeeper) -> None:
        found = gateway_changes.instance_changes(at, self.size.changes, self.size.failures_seconds)
        self.figures["failed_requests_during_changes"] = found["failed"]
        self.detail["failures"] = found

    def _kills(self, at: Changing, zookeeper: ZooKeeper) -> None:
        found = gateway_changes.kills(at, self.directory, self.size.kills, self.size.kills)
        self.figures["failed_requests_during_kills"] = found["failed"]
        self.detail["kills"] = found

    def _attacks(self, at: Changing, zookeeper: ZooKeeper) -> None:
        self.detail["attacks"] = gateway_attacks.measure(at, self.size.attack_rounds, max(2.0, self.size.seconds))

    def _resync(self, at: Changing, zookeeper: ZooKeeper) -> None:
        self.figures.update(gateway_changes.resync(at))

    def _cold(self, at: Changing) -> None:
        """From nothing but the disk: no HAProxy runs, and ZooKeeper is gone."""
        began = time.monotonic()
        at.gateway.start()
        until(lambda: at.gateway.serves(at.fleet.host(at.fleet.apps - 1)), "an app is served", 120)
        self.figures["cold_start_s"] = round(time.monotonic() - began, 2)
        at.gateway.signal(signal.SIGTERM)

    def _rps(self, at: Changing) -> None:
        found = gateway_rps.measure(at.gateway, at.fleet, self.directory, self.size.rounds, self.size.seconds)
        self.figures.update(found.pop("figures"))
        self.detail["rps"] = found

    def _reloads(self, at: Changing) -> None:
        found = gateway_changes.reloads(at, self.size.reloads)
        self.figures["failed_requests_during_reloads"] = found["failed"]
        self.detail["reloads"] = found
        at.gateway.signal(signal.SIGTERM)

    def _sum_up(self) -> None:
        self.detail["requests_while_things_changed"] = sum(
            found.get("requests", 0) for name, found in self.detail.items() if name in ("failures", "kills", "reloads")
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", default=",".join(PARTS), help="of " + ",".join(PARTS))
    arguments.add_argument("--apps", type=int)
    arguments.add_argument("--rounds", type=int)
    given = arguments.parse_args()
    wanted = frozenset(given.only.split(","))
    if unknown := wanted - set(PARTS):
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}")
    size = QUICK if given.quick else Size()
    size = Size(**{**_fields(size), **{key: value for key in ("apps", "rounds") if (value := getattr(given, key))}})
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as directory:
        bench = Bench(size, Path(directory))
        bench.run(wanted)
    report("gateway", bench.figures, bench.detail)


def _fields(size: Size) -> dict[str, Any]:
    return {name: getattr(size, name) for name in Size.__slots__}


if __name__ == "__main__":
    main()
