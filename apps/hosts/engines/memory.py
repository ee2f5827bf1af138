"""The engine contract in memory: the same verbs, errors and walls, a thousand hosts in one process.

A MemoryHost is the machine, found by its URL; a MemoryEngine is one connection to it, as a DockerEngine is to a
dockerd. Nothing here is random and nothing reads a clock, so what a test or a benchmark does, it does again.
"""

from __future__ import annotations

import enum
import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from apps.hosts.engines import builder
from apps.hosts.engines.base import (
    MAX_CHECK_OUTPUT,
    CommandResult,
    ContainerEvent,
    ContainerSpec,
    ContainerState,
    EngineAddress,
    EngineError,
    EngineInfo,
    EngineUnreachable,
    EventKind,
    HostImage,
    ImageDenied,
    ImageNotFound,
    NameTaken,
    Observed,
    PortTaken,
    SpecRefused,
)

_KILLED = 137
#: As many as a Docker Engine remembers.
_REMEMBERED = 256
#: How long a silent stream waits before it asks whether to stop. Seconds.
_IDLE_S = 0.1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a container of an image does once started. ``ready`` is for a prober; the engine itself never asks."""

    exit_code: int | None = None
    ready: bool = True
    refuses: str = ""
    output: bytes = b""
    tokens: frozenset[str] | None = None
    """Who may pull it; None is everybody."""
    commands: Mapping[tuple[str, ...], CommandResult] = field(default_factory=dict)
    """What commands do in it; one that is not named here ends well and says nothing."""


RUNS = Behaviour()
NEVER_READY = Behaviour(ready=False)


def exits(code: int) -> Behaviour:
    return Behaviour(exit_code=code)


def refuses(reason: str = 'exec: "/no/such": no such file or directory') -> Behaviour:
    return Behaviour(refuses=reason)


class Failure(enum.StrEnum):
    """When a verb fails: before it does anything, or after, its answer lost on the way."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(slots=True)
class MemoryContainer:
    """A container and the body that the one builder made for it, as ``docker inspect`` would show it."""

    observed: Observed
    platform: str
    tenant: str
    port: tuple[str, int]
    behaviour: Behaviour
    body: dict[str, Any]


@dataclass(slots=True)
class MemoryHost:
    """One pretended machine. Tests change its fields at will, under ``lock`` if engines are at work."""

    url: str
    info: EngineInfo = field(default_factory=lambda: EngineInfo("memory", 4000, 8192))
    images: dict[str, Behaviour] = field(default_factory=dict)
    default_behaviour: Behaviour | None = None
    """What an image that nobody named does; None is: the registry does not have it."""
    foreign_ports: set[tuple[str, int]] = field(default_factory=set)
    foreign_names: set[str] = field(default_factory=set)
    unreachable: bool = False
    latency_s: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    containers: dict[str, MemoryContainer] = field(default_factory=dict)
    networks: set[tuple[str, str]] = field(default_factory=set)
    pulled: set[str] = field(default_factory=set)
    tagged: dict[str, str] = field(default_factory=dict)
    """A tag that somebody gave by hand -> what was pulled, or a name of its own for an image of his."""
    image_bytes: int = 10 * 1024 * 1024
    failures: dict[str, list[Failure]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lock: threading.RLock = field(default_factory=threading.RLock)
    made: int = 0
    said: deque[tuple[str, ContainerEvent]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """Events, the oldest first, each with its platform. Their time is a count."""
    spoken: int = 0
    streams_broken: int = 0
    changed: threading.Condition = field(init=False)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)

    def say(self, one: MemoryContainer, kind: EventKind, exit_code: int | None = None) -> None:
        """Tell those who follow the events, what is true or not."""
        with self.changed:
            self.spoken += 1
            event = ContainerEvent(one.observed.name, one.observed.instance, kind, float(self.spoken), exit_code)
            self.said.append((one.platform, event))
            self.changed.notify_all()

    def break_streams(self) -> None:
        """End every event stream that is open, as a restarted engine does."""
        with self.changed:
            self.streams_broken += 1
            self.changed.notify_all()

    def fail_next(self, verb: str, when: Failure = Failure.BEFORE, times: int = 1) -> None:
        """Make the next calls of a verb raise EngineUnreachable, as a hang that ran into its timeout does."""
        with self.lock:
            self.failures[verb] += [when] * times

    def crash(self, name: str, exit_code: int = 1, *, oom_killed: bool = False) -> None:
        """End a running container from inside."""
        with self.lock:
            one = self.containers[name]
            one.observed = replace(
                one.observed, state=ContainerState.EXITED, exit_code=exit_code, oom_killed=oom_killed
            )
            if oom_killed:
                self.say(one, EventKind.OOM)
            self.say(one, EventKind.DIE, exit_code)

    def reboot(self) -> None:
        """What a dockerd without live-restore leaves after it was killed: every container ended."""
        with self.lock:
            for name, one in self.containers.items():
                if one.observed.state is ContainerState.RUNNING:
                    self.crash(name, _KILLED)

    def is_ready(self, host_ip: str, host_port: int) -> bool:
        """Whether a prober would find something listening."""
        with self.lock:
            return not self.unreachable and any(
                one.port == (host_ip, host_port) and one.behaviour.ready
                for one in self.containers.values()
                if one.observed.state is ContainerState.RUNNING
            )

    def create(self, spec: ContainerSpec) -> MemoryContainer:
        """Create and not start, as a worker that is killed between the two leaves it."""
        body = builder.build(spec)
        (binding,) = body["HostConfig"]["PortBindings"][f"{spec.container_port}/tcp"]
        with self.lock:
            behaviour = self.images.get(spec.image.digest) or self.default_behaviour or RUNS
            self.made += 1
            container = MemoryContainer(
                observed=Observed(
                    name=spec.name,
                    container_id=hashlib.sha256(f"{self.url} {spec.name} {self.made}".encode()).hexdigest(),
                    instance=spec.instance,
                    app=spec.app,
                    state=ContainerState.CREATED,
                    fingerprint=spec.fingerprint,
                ),
                platform=spec.platform,
                tenant=spec.tenant,
                port=(binding["HostIp"], spec.host_port),
                behaviour=behaviour,
                body=body,
            )
            self.containers[spec.name] = container
            self.networks.add((spec.platform, spec.tenant))
            return container


class MemoryFleet:
    """Hosts by URL. There is one of the process, FLEET, which ``connect`` looks into."""

    def __init__(self) -> None:
        self._hosts: dict[str, MemoryHost] = {}

    def add(self, host: MemoryHost) -> MemoryHost:
        self._hosts[host.url] = host
        return host

    def get(self, url: str) -> MemoryHost | None:
        return self._hosts.get(url)

    def clear(self) -> None:
        self._hosts.clear()


FLEET = MemoryFleet()


class MemoryEngine:
    """One connection to a MemoryHost. A URL that no host has is a machine that does not answer."""

    def __init__(self, address: EngineAddress, fleet: MemoryFleet = FLEET) -> None:
        self._url = address.url
        self._fleet = fleet

    def ping(self) -> EngineInfo:
        return self._call("ping", lambda host: host.info)

    def ensure(self, spec: ContainerSpec, *, pull_token: str) -> Observed:
        builder.build(spec)  # refuses what a real engine's builder refuses, before any call
        return self._call("ensure", lambda host: _ensure(host, spec, pull_token))

    def remove(self, name: str, *, grace_s: int) -> None:
        self._call("remove", lambda host: _remove(host, name))

    def inspect(self, name: str) -> Observed | None:
        def look(host: MemoryHost) -> Observed | None:
            found = host.containers.get(name)
            return found.observed if found else None

        return self._call("inspect", look)

    def list(self, platform: str) -> list[Observed]:
        return self._call(
            "list", lambda host: [one.observed for one in host.containers.values() if one.platform == platform]
        )

    def logs(self, name: str, *, tail: int) -> bytes:
        def read(host: MemoryHost) -> bytes:
            found = host.containers.get(name)
            lines = found.behaviour.output.splitlines(keepends=True) if found and tail > 0 else []
            return b"".join(lines[-tail:])

        return self._call("logs", read)

    def check(self, name: str, command: Sequence[str], *, timeout_s: int) -> CommandResult:
        def run(host: MemoryHost) -> CommandResult:
            found = host.containers.get(name)
            if found is None or found.observed.state is not ContainerState.RUNNING:
                raise EngineError(f"{name} does not run")
            result = found.behaviour.commands.get(tuple(command), CommandResult(0))
            return replace(result, output=result.output[:MAX_CHECK_OUTPUT])

        return self._call("check", run)

    def events(self, platform: str, *, since: float | None, stop: Callable[[], bool]) -> Iterator[ContainerEvent]:
        host = self._call("events", lambda host: host)
        with host.lock:
            last, broken = float(host.spoken) if since is None else since, host.streams_broken
        while not stop():
            with host.changed:
                if host.streams_broken != broken or host.unreachable:
                    raise EngineUnreachable(f"the event stream of {self._url} broke")
                new = [(its, event) for its, event in host.said if event.at > last]
                if not new:
                    host.changed.wait(_IDLE_S)
            for its, event in new:
                last = event.at
                if its == platform:
                    yield event
                if stop():
                    return

    def images(self) -> Sequence[HostImage]:
        def look(host: MemoryHost) -> list[HostImage]:
            known: dict[str, list[str]] = {one.rpartition("@")[2]: [] for one in (*host.pulled, *host.tagged.values())}
            for reference in sorted(host.pulled):
                known[reference.rpartition("@")[2]].append(reference)
            for tag, of in sorted(host.tagged.items()):
                known[of.rpartition("@")[2]].append(tag)
            return [HostImage(one, tuple(names), host.image_bytes) for one, names in known.items()]

        return self._call("images", look)

    def image_remove(self, reference: str) -> bool:
        builder.only_by_digest(reference)

        def drop(host: MemoryHost) -> bool:
            digest = reference.rpartition("@")[2]
            others = [one for one in host.pulled if one.endswith(digest) and one != reference]
            others += [tag for tag, of in host.tagged.items() if of.endswith(digest)]
            used = any(one.body["Image"].endswith(digest) for one in host.containers.values())
            if used and reference in host.pulled and not others:
                return False
            host.pulled.discard(reference)
            return True

        return self._call("image_remove", drop)

    def close(self) -> None:
        """Nothing is held."""

    def _call(self, verb: str, act: Callable[[MemoryHost], _T]) -> _T:
        host = self._fleet.get(self._url)
        if host is None or host.unreachable:
            raise EngineUnreachable(f"no answer from {self._url}")
        if host.latency_s:
            host.sleep(host.latency_s)
        with host.lock:
            host.calls[verb] += 1
            failure = host.failures[verb].pop(0) if host.failures[verb] else None
            if failure is Failure.BEFORE:
                raise EngineUnreachable(f"no answer from {self._url}")
            result = act(host)
            if failure is Failure.AFTER:
                raise EngineUnreachable(f"the answer from {self._url} was lost")
            return result


def _ensure(host: MemoryHost, spec: ContainerSpec, token: str) -> Observed:
    if spec.name in host.foreign_names:
        raise NameTaken(f"a container that is not ours has the name {spec.name}")
    found = host.containers.get(spec.name)
    if found is None or found.observed.fingerprint != spec.fingerprint:
        _pull(host, spec, token)
        found = host.create(spec)
    if found.observed.state is ContainerState.CREATED:
        _start(host, found)
    return found.observed


def _pull(host: MemoryHost, spec: ContainerSpec, token: str) -> None:
    image = str(spec.image)
    if image in host.pulled:
        return
    behaviour = host.images.get(spec.image.digest) or host.default_behaviour
    if behaviour is None:
        raise ImageNotFound(f"manifest for {image} not found")
    if behaviour.tokens is not None and token not in behaviour.tokens:
        raise ImageDenied(f"pull access denied for {spec.image.repository}")
    host.pulled.add(image)


def _start(host: MemoryHost, one: MemoryContainer) -> None:
    """As on a real engine, one that cannot start leaves nothing behind."""
    name, behaviour = one.observed.name, one.behaviour
    if behaviour.refuses:
        _remove(host, name)
        raise SpecRefused(behaviour.refuses)
    held = (
        other.port
        for other in host.containers.values()
        if other is not one and other.observed.state is ContainerState.RUNNING
    )
    if one.port in host.foreign_ports or one.port in held:
        _remove(host, name)
        raise PortTaken("port is already allocated")
    one.observed = replace(one.observed, state=ContainerState.RUNNING)
    host.say(one, EventKind.START)
    if behaviour.exit_code is not None:
        host.crash(name, behaviour.exit_code)


def _remove(host: MemoryHost, name: str) -> None:
    gone = host.containers.pop(name, None)
    if gone is None:
        return
    if gone.observed.state is ContainerState.RUNNING:
        host.say(gone, EventKind.DIE, _KILLED)
    host.say(gone, EventKind.DESTROY)
    key = (gone.platform, gone.tenant)
    if not any((one.platform, one.tenant) == key for one in host.containers.values()):
        host.networks.discard(key)
