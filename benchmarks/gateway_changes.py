"""Changes while requests run: how long until they are live, and that none costs a request."""

from __future__ import annotations

import http.client
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gateway_parts as parts
from benchmarks.gateway_load import Result, Wrk
from benchmarks.gateway_parts import Fleet, Publishing, Victim
from benchmarks.gateway_rps import pin
from benchmarks.report import tell
from gateway import contract
from gateway.contract import Address, Policy, Route
from gateway.tests.parts import Gateway, until

#: Under load, and not beyond what the machine can do: beside the proxy, a core has ZooKeeper, agent, load and backends.
LOAD_CONNECTIONS = 32
LOAD_DELAY_MS = 8
VICTIMS = 4
VICTIM_APP = "victim"


class Changing:
    """A fleet in ZooKeeper, a gateway that serves it, and which life each app's instances are in."""

    def __init__(self, gateway: Gateway, publisher: Publishing, fleet: Fleet) -> None:
        self.gateway, self.publisher, self.fleet = gateway, publisher, fleet
        self.lives = dict.fromkeys(range(fleet.apps), 0)
        fan = set(fleet.fan())
        self._rest = [number for number in range(fleet.apps) if number not in fan]
        random.Random(1).shuffle(self._rest)  # noqa: S311

    def others(self, count: int) -> list[int]:
        """Apps that the load does not ask for."""
        return self._rest[: max(1, min(count, len(self._rest)))]

    def load(self, seconds: float, hosts: Sequence[str] = (), delay_ms: int = LOAD_DELAY_MS) -> Wrk:
        names = hosts or [self.fleet.host(number) for number in self.fleet.fan()]
        load = Wrk(self.gateway.port, names, seconds, LOAD_CONNECTIONS, delay_ms)
        after(1)  # until it is under way
        return load

    def swap(self, number: int) -> Any:
        old = self.lives[number]
        self.lives[number] = old + 1
        return self.publisher.swap(self.fleet, number, old, old + 1)

    def addresses(self, number: int) -> set[str]:
        return {str(one) for one in self.fleet.instances(number, self.lives[number]).values()}

    def await_all(self, seconds: float = 60) -> None:
        self.publisher.await_served(self.publisher.zxid(), seconds)


def latency(at: Changing, count: int, most_seconds: float) -> dict[str, Any]:
    """One change after the other, each an app whose instances are all replaced: ZooKeeper has taken it -> the first
    answer of a new one. Ends early where the time is over, and says so."""
    times = []
    load = at.load(most_seconds + 30)
    until_when = time.monotonic() + most_seconds
    asking = Asking(at.gateway.port)
    try:
        for turn in range(count):
            number = at.others(200)[turn % len(at.others(200))]
            at.swap(number).get(30)
            began = time.monotonic()
            wanted = at.addresses(number)
            while asking.who(at.fleet.host(number)) not in wanted:
                if time.monotonic() > began + 30:
                    raise RuntimeError("a change is not live after 30 s")
            times.append((time.monotonic() - began) * 1000)
            if time.monotonic() > until_when:
                break
            if (turn + 1) % 100 == 0:
                tell(f"{turn + 1} changes, p50 {statistics.median(times):.1f} ms")
    finally:
        asking.close()
        result = load.stop()
    return {
        "changes": len(times),
        "asked_for": count,
        "p50_ms": round(quantile(times, 0.5), 2),
        "p99_ms": round(quantile(times, 0.99), 2),
        "max_ms": round(max(times), 2),
        "load": _told(result),
    }


def at_once(at: Changing, instances: int) -> dict[str, Any]:
    """So many instances replaced at once, five an app: written -> each of those apps answers with a new one."""
    numbers = at.others(instances // at.fleet.per_app)
    load = at.load(60)
    asking = [Asking(at.gateway.port) for _ in range(min(20, len(numbers)))]
    try:
        began = time.monotonic()
        for waiting in [at.swap(number) for number in numbers]:
            parts.check(waiting.get(30))
        written = time.monotonic()
        left = list(numbers)
        while left:
            left = [
                number
                for turn, number in enumerate(left)
                if asking[turn % len(asking)].who(at.fleet.host(number)) not in at.addresses(number)
            ]
            if time.monotonic() > written + 60:
                raise RuntimeError(f"{len(left)} apps are not live after 60 s")
        live = time.monotonic()
    finally:
        for one in asking:
            one.close()
        result = load.stop()
    return {
        "instances": len(numbers) * at.fleet.per_app,
        "write_ms": round((written - began) * 1000, 1),
        "all_live_after_first_write_ms": round((live - began) * 1000, 1),
        "all_live_after_last_write_ms": round((live - written) * 1000, 1),
        "load": _told(result),
    }


def instance_changes(at: Changing, count: int, least_seconds: float) -> dict[str, Any]:
    """Instances of the apps that are under full load are replaced, and served meanwhile; for so long at least."""
    fan = at.fleet.fan()
    load = at.load(600, delay_ms=0)
    began = time.monotonic()
    turn = 0
    while turn * at.fleet.per_app < count or time.monotonic() < began + least_seconds:
        parts.check(at.swap(fan[turn % len(fan)]).get(30))
        turn += 1
        # What is written at once is put in force at once: a few hands at a time, as in life.
        if turn % 5 == 0:
            at.await_all()
    at.await_all()
    return {"changes": turn * at.fleet.per_app, **_told(load.stop())}


def reloads(at: Changing, count: int) -> dict[str, Any]:
    """By another setting, which an agent finds when it takes over the HAProxy that its killed predecessor left."""
    load = at.load(600, delay_ms=0)
    done = 0
    for turn in range(count):
        at.gateway.signal(signal.SIGKILL)
        at.gateway.set("BERTH_GATEWAY_MAX_CONNECTIONS", str(2000 + turn % 2))
        at.gateway.start()
        until(lambda: at.gateway.status().get("haproxy_reloads"), "a reload", 60)
        pin(at.gateway)
        done += at.gateway.status()["haproxy_reloads"]
        tell(f"{done} reloads")
    return {"reloads": done, **_told(load.stop())}


def kills(at: Changing, directory: Path, kill_count: int, drain_count: int) -> dict[str, Any]:
    """``kill -9`` of instances that serve, and drains: out of ZooKeeper, acknowledged, killed, and back."""
    victims = [Victim(directory / f"victim-{number}") for number in range(VICTIMS)]
    for victim in victims:
        victim.start()
    create_app(at.publisher, VICTIM_APP, "victim.bench.test", {_name(one): _address(one) for one in victims})
    at.await_all()
    hosts = ["victim.bench.test", *(at.fleet.host(number) for number in at.fleet.fan()[:4])]
    load = at.load(600, hosts, delay_ms=0)
    try:
        for turn in range(kill_count):
            victim = victims[turn % len(victims)]
            victim.kill()
            after(0.3)
            victim.start()
            # The gateway looks after what it found dead once a second.
            after(1.5)
        killed = load.stop()
        load = at.load(600, hosts, delay_ms=0)
        for turn in range(drain_count):
            victim = victims[turn % len(victims)]
            set_instances(at.publisher, VICTIM_APP, remove=[_name(victim)])
            at.await_all()
            victim.kill()
            victim.start()
            set_instances(at.publisher, VICTIM_APP, add={_name(victim): _address(victim)})
            at.await_all()
        drained = load.stop()
    finally:
        if load.running():
            load.stop()
        for victim in victims:
            victim.kill()
    return {
        "kills": kill_count,
        "drains": drain_count,
        "killed": _told(killed),
        "drained": _told(drained),
        "requests": killed.requests + drained.requests,
        "failed": killed.failed + drained.failed,
    }


def resync(at: Changing) -> dict[str, Any]:
    """The agent sleeps for longer than its session; then: awake -> a change made meanwhile is acknowledged."""
    os.kill(at.gateway.pid, signal.SIGSTOP)
    try:
        until(lambda: at.publisher.state() is None, "the session is over", 60)
        number = at.others(1)[0]
        at.swap(number).get(30)
    finally:
        os.kill(at.gateway.pid, signal.SIGCONT)
    began = time.monotonic()
    at.await_all(120)
    return {"resync_s": round(time.monotonic() - began, 2)}


# Small parts


class Asking:
    """A client that asks which instance answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def who(self, host: str) -> str:
        """The instance's address, or nothing where none answered."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            self._connection.request("GET", "/who", headers={"Host": host})
            answer = self._connection.getresponse()
            body = answer.read().decode("latin-1")
        except (OSError, http.client.HTTPException):
            self.close()
            return ""
        if answer.will_close:
            self.close()
        return body if answer.status == 200 else ""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def create_app(publisher: Publishing, app: str, host: str, instances: dict[str, Address]) -> None:
    publisher.last_app = app
    change = publisher.client.transaction()
    change.create(contract.app_address_path(app), b"", acl=publisher.acl)
    change.create(contract.version_path(app, "1.0"), b"", acl=publisher.acl)
    for name, address in instances.items():
        change.create(contract.instance_path(app, "1.0", name), str(address).encode(), acl=publisher.acl)
    route = Route(app, 1, (host,), {"1.0": 100}, Policy())
    change.create(contract.route_path(app), route.to_json(), acl=publisher.acl)
    parts.check(change.commit())


def set_instances(
    publisher: Publishing, app: str, add: dict[str, Address] | None = None, remove: Sequence[str] = ()
) -> None:
    publisher.last_app = app
    change = publisher.client.transaction()
    for name in remove:
        change.delete(contract.instance_path(app, "1.0", name))
    for name, address in (add or {}).items():
        change.create(contract.instance_path(app, "1.0", name), str(address).encode(), acl=publisher.acl)
    route = Route.from_json(publisher.client.get(contract.route_path(app))[0])
    raised = Route(app, route.revision + 1, route.domains, route.weights, route.policy)
    change.set_data(contract.route_path(app), raised.to_json())
    parts.check(change.commit())


def _name(victim: Victim) -> str:
    return f"{victim.port:012x}"


def _address(victim: Victim) -> Address:
    return Address("127.0.0.1", victim.port)


def quantile(values: Sequence[float], share: float) -> float:
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))]


def after(seconds: float, condition: Callable[[], bool] | None = None) -> None:
    """A pause of the measurement itself: the load goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (condition is not None and condition()):
        time.sleep(0.02)


def _told(result: Result) -> dict[str, Any]:
    return {
        "requests": result.requests,
        "rps": round(result.rps, 1),
        "p99_ms": result.p99_ms,
        "failed": result.failed,
        "errors": dict(result.errors),
    }
