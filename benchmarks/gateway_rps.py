"""Requests a second and p99 against nginx and a static HAProxy: interleaved rounds in one run, the same backends.

Each target is started for its turn and ended after it, so that none takes a share of the proxy's core from another.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gateway_parts as parts
from benchmarks.gateway_load import Wrk
from benchmarks.gateway_parts import Fleet
from benchmarks.report import tell
from gateway import processes
from gateway.contract import Address
from gateway.tests.parts import Gateway, until

WARM_UP_SECONDS = 1
TARGETS = ("nginx", "static_plain", "static", "ours", "ours_logged")


def measure(gateway: Gateway, fleet: Fleet, directory: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """``gateway``: stopped, with the fleet in its state on disk. Leaves it so."""
    hosts = [fleet.host(number) for number in fleet.fan()]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TARGETS}
    colds: list[float] = []
    for turn in range(rounds):
        for name in TARGETS if turn % 2 == 0 else TARGETS[::-1]:
            with _target(name, gateway, fleet, directory, colds) as (port, pids):
                Wrk(port, hosts, WARM_UP_SECONDS).result()
                began, cpu = time.monotonic(), parts.cpu_seconds(pids)
                result = Wrk(port, hosts, seconds).result()
                took, used = time.monotonic() - began, parts.cpu_seconds(pids) - cpu
            found[name].append(
                {
                    "rps": round(result.rps, 1),
                    "p50_ms": result.p50_ms,
                    "p99_ms": result.p99_ms,
                    "cpu_us_per_request": round(used / result.requests * 1e6, 2),
                    "core_share": round(used / took, 3),
                    "failed": result.failed,
                }
            )
            tell(f"round {turn + 1} of {rounds}: {name}: {found[name][-1]}")
    return {
        "figures": {
            "rps_vs_static_haproxy": _ratio(found, "ours", "static", "rps"),
            "rps_vs_static_haproxy_logged": _ratio(found, "ours_logged", "static", "rps"),
            "rps_vs_nginx": _ratio(found, "ours", "nginx", "rps"),
            "p99_vs_static_haproxy": _ratio(found, "ours", "static", "p99_ms"),
        },
        "medians": {
            name: {key: statistics.median(one[key] for one in turns) for key in turns[0]}
            for name, turns in found.items()
        },
        # One that loses the requests of an instance that dies.
        "rps_vs_static_haproxy_plain": _ratio(found, "ours", "static_plain", "rps"),
        # Of time on the core, whoever else was on it: what holds on a machine that is busy.
        "cpu_vs_static_haproxy": _ratio(found, "ours", "static", "cpu_us_per_request"),
        "cpu_vs_static_haproxy_logged": _ratio(found, "ours_logged", "static", "cpu_us_per_request"),
        "rounds": found,
        "cold_starts_s": [round(one, 3) for one in colds],
    }


def _ratio(found: dict[str, list[dict[str, float]]], ours: str, theirs: str, key: str) -> float:
    """The median of the ratios of each round."""
    pairs = zip(found[ours], found[theirs], strict=True)
    return round(statistics.median(one[key] / other[key] for one, other in pairs), 3)


@contextmanager
def _target(
    name: str, gateway: Gateway, fleet: Fleet, directory: Path, colds: list[float]
) -> Iterator[tuple[int, Sequence[int]]]:
    """A port, and the processes that are the proxy."""
    at = directory / name
    if name == "ours_logged":
        began = time.monotonic()
        gateway.start()
        until(lambda: gateway.serves(fleet.host(0)), "the first app is served", 60)
        colds.append(time.monotonic() - began)
        try:
            yield gateway.port, pin(gateway)
        finally:
            gateway.signal(signal.SIGTERM)
        return
    if name == "ours":
        command = parts.quiet_copy(gateway.directory, at, Address("127.0.0.1", gateway.port))
        port = gateway.port
    else:
        plain = partial(parts.static_haproxy, plain=True)
        makers = {"static": parts.static_haproxy, "static_plain": plain, "nginx": parts.static_nginx}
        command, port = makers[name](at, fleet)
    with parts.running(command, at, parts.PROXY_CORE, port) as process:
        # nginx's worker is a child.
        yield port, [process.pid, *parts.children(process.pid)]


def pin(gateway: Gateway) -> list[int]:
    """HAProxy to its core, the agent to the other one. Returns HAProxy's processes."""
    for pid in parts.threads(gateway.pid):
        os.sched_setaffinity(pid, {parts.LOAD_CORE})
    found = processes.ours(gateway.directory / "haproxy.cfg")
    for pid in found:
        os.sched_setaffinity(pid, {parts.PROXY_CORE})
    return found
