"""Counts what HAProxy says of each request: by app, and by container. No text of a tenant is in those lines.

A line is ``ID BACKEND SERVER STATUS CONNECT ANSWER ALL RETRIES END`` (`LOG_FORMAT`); the times are HAProxy's %Tc, %Tr
and %Ta, in milliseconds. ID is the gateway's own: two gateways of one machine may be given the same port by mistake.

A request that a replaced worker hands to the newest one makes two lines, and counts once: the first one's backend is
`newest`, which is no app's.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from gateway import contract
from gateway.contract import ANSWER_BOUNDS_MS, ANSWER_BUCKETS, STATUS_CLASSES, AppTraffic, ContainerTraffic
from gateway.model import backend_name
from gateway.tables import TESTERS

LOG_FORMAT = "%b %s %ST %Tc %Tr %Ta %rc %ts"
FIELDS = 9
MOST_CONTAINERS = 20_000
FORGET_SECONDS = 3600.0

_NO_SERVER = b"<NOSRV>"
_HANDED_OVER = b"newest"
_SLOWEST_KEPT_MS = 1024
#: The bucket of each short time, looked up instead of searched for.
_BUCKETS = tuple(bisect_left(ANSWER_BOUNDS_MS, milliseconds) for milliseconds in range(_SLOWEST_KEPT_MS))


@dataclass(slots=True)
class _Container:
    app: str
    name: str
    seen: float
    requests: int = 0
    errors: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * ANSWER_BUCKETS)


@dataclass(slots=True)
class _App:
    left: float | None = None
    requests: int = 0
    unserved: int = 0
    broken: int = 0
    classes: list[int] = field(default_factory=lambda: [0] * len(STATUS_CLASSES))
    containers: dict[bytes, _Container] = field(default_factory=dict)


class Counters:
    """Any thread may call any method. ``since`` names this life of the counters; within it they only grow.

    ``malformed``: lines that are none of ours. ``homeless``: requests that found no app, by their host name or at all.
    ``listening`` and ``dropped`` are told by whoever reads the lines.
    """

    def __init__(self, gateway: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.since = str(uuid.uuid4())
        self.listening = False
        self.dropped = 0
        self.malformed = 0
        self.homeless = 0
        self._gateway = gateway
        self._mark = gateway.encode()
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: dict[bytes, str] = {}
        self._apps: dict[str, _App] = {}
        self._containers: dict[bytes, _Container] = {}
        self._busy: dict[tuple[bytes, str], int] = {}

    def assign(self, slots: Mapping[str, int]) -> None:
        """Which app has which slot from now on. A slot that nobody has now stays with its last owner, whose last
        requests are still to end."""
        with self._lock:
            self._slots.update({backend_name(slot).encode(): _whose(name) for name, slot in slots.items()})
            apps = {_whose(name) for name in slots}
            for app in apps - self._apps.keys():
                self._apps[app] = _App()
            now = self._clock()
            for app, counted in self._apps.items():
                if app in apps:
                    counted.left = None
                elif counted.left is None:
                    counted.left = now

    def leaving(self, busy: Mapping[tuple[int, str], int]) -> None:
        """Servers, by slot and name, that get no new requests and still answer so many."""
        with self._lock:
            self._busy = {(backend_name(slot).encode(), name): number for (slot, name), number in busy.items()}

    def take(self, lines: Iterable[bytes]) -> None:
        with self._lock:
            now = self._clock()
            for line in lines:
                try:
                    self._take(line, now)
                except ValueError:
                    self.malformed += 1

    def forget(self, containers: Collection[str]) -> None:
        """Containers and apps that left an hour ago. ``containers``: those that are there."""
        now = self._clock()
        before = now - FORGET_SECONDS
        with self._lock:
            for name, counted in list(self._containers.items()):
                if counted.name in containers:
                    counted.seen = now
                elif counted.seen < before:
                    self._drop(name, counted)
            for app, total in list(self._apps.items()):
                if total.left is not None and total.left < before:
                    del self._apps[app]
                    for name in total.containers:
                        del self._containers[name]

    def of(self, app: str) -> AppTraffic | None:
        """None for an app that this gateway does not know."""
        with self._lock:
            counted = self._apps.get(app)
            return self._told(app, counted) if counted is not None else None

    def totals(self) -> dict[str, object]:
        """Every app without its containers, and what is no app's."""
        with self._lock:
            apps = {
                app: {
                    "requests": counted.requests,
                    "classes": dict(zip(STATUS_CLASSES, counted.classes, strict=True)),
                    "unserved": counted.unserved,
                    "broken": counted.broken,
                }
                for app, counted in self._apps.items()
            }
            return {"format": contract.FORMAT, "gateway": self._gateway, "apps": apps, **self._health()}

    def health(self) -> dict[str, object]:
        with self._lock:
            return self._health()

    def _health(self) -> dict[str, object]:
        return {
            "since": self.since,
            "listening": self.listening,
            "dropped": self.dropped,
            "malformed": self.malformed,
            "homeless": self.homeless,
            "containers": len(self._containers),
        }

    def _told(self, app: str, counted: _App) -> AppTraffic:
        return AppTraffic(
            gateway=self._gateway,
            app=app,
            since=self.since,
            requests=counted.requests,
            classes=dict(zip(STATUS_CLASSES, counted.classes, strict=True)),
            unserved=counted.unserved,
            broken=counted.broken,
            listening=self.listening,
            dropped=self.dropped,
            containers={
                one.name: ContainerTraffic(one.requests, one.errors, tuple(one.histogram))
                for one in counted.containers.values()
            },
            busy={name: number for (slot, name), number in self._busy.items() if self._slots.get(slot) == app},
        )

    def _take(self, line: bytes, now: float) -> None:
        """Raises ValueError for a line that is not one of ours."""
        words = line.split()
        if len(words) != FIELDS or words[0] != self._mark:
            raise ValueError
        _, backend, server, *numbers, end = words
        status, connect, answer, everything = map(int, numbers[:4])
        kind = status // 100
        if not 1 <= kind <= 5:
            kind = 0
        app = self._slots.get(backend, "")
        total = self._apps.get(app)
        if total is None:
            # Handed over: the newest worker says what became of it, unless it could not be reached.
            self.homeless += backend != _HANDED_OVER or (answer < 0 and end[:1] != b"C")
            return
        if server == _NO_SERVER:
            total.requests += 1
            total.classes[kind] += 1
            # A client that went away before a server was chosen was not turned away by us.
            total.unserved += kind != 0
            return
        container = self._containers.get(server) or self._welcome(server, app, now)
        if container.app != app:
            # A late line: its slot is somebody else's by now.
            total = self._apps[container.app]
        total.requests += 1
        total.classes[kind] += 1
        container.seen = now
        container.requests += 1
        # S: the server's side ended it; D: while data went on. A websocket that ends so has ended as they do.
        broken = end == b"SD" and status != 101
        total.broken += broken
        container.errors += kind == 5 or broken
        # Failed tries may have been another instance's fault, and their time is in %Tc.
        waited = everything if answer < 0 else answer + (connect if numbers[4] == b"0" else 0)
        if 0 <= waited < _SLOWEST_KEPT_MS:
            container.histogram[_BUCKETS[waited]] += 1
        else:
            container.histogram[bisect_left(ANSWER_BOUNDS_MS, max(0, waited))] += 1

    def _welcome(self, server: bytes, app: str, now: float) -> _Container:
        name = contract.container_id(server.decode("ascii"))
        if len(self._containers) >= MOST_CONTAINERS:
            # The quietest twentieth goes, so that this is rare.
            quiet = sorted(self._containers.items(), key=lambda item: item[1].seen)
            for gone, counted in quiet[: MOST_CONTAINERS // 20 + 1]:
                self._drop(gone, counted)
        made = self._containers[server] = self._apps[app].containers[server] = _Container(app, name, now)
        return made

    def _drop(self, name: bytes, counted: _Container) -> None:
        del self._containers[name]
        del self._apps[counted.app].containers[name]


def _whose(name: str) -> str:
    """The app of a slot: those who test its canary are its visitors."""
    return name.removesuffix(TESTERS)
