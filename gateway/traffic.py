"""Counts what HAProxy says of each request: by app, by container, and by version lately (gateway.windows).

A line is ``ID BACKEND SERVER STATUS CONNECT ANSWER ALL RETRIES END IN OUT`` (`LOG_FORMAT`); the times are HAProxy's
%Tc, %Tr and %Ta, in milliseconds. ID is the gateway's own: two gateways of one machine may be given the same port by
mistake. No text of a tenant is in it. With the access log `ACCESS_FORMAT` follows, whose text HAProxy encodes: it can
neither end a line nor make a field.

A request that a replaced worker hands to the newest one makes two lines, and counts once: the first one's backend is
`newest`, which is no app's.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway import contract
from gateway.contract import (
    ANSWER_BOUNDS_MS,
    ANSWER_BUCKETS,
    STATUS_CLASSES,
    AppTraffic,
    ContainerTraffic,
    Window,
)
from gateway.model import backend_name
from gateway.tables import TESTERS
from gateway.windows import (
    BUSY,
    BUSY_MS,
    BYTES_IN,
    BYTES_OUT,
    LONG,
    LONG_MS,
    LONGER,
    LONGER_MS,
    TIMES,
    Flow,
)

LOG_FORMAT = "%b %s %ST %Tc %Tr %Ta %rc %ts %U %B"
#: url_enc leaves letters, digits and -._~ as they are. A ``=`` in front keeps a field that is empty from vanishing.
ACCESS_FORMAT = (
    " %ci =%ID =%[capture.req.method,bytes(0,32),url_enc] =%[var(txn.host),bytes(0,253),url_enc]"
    " =%[capture.req.uri,field(1,?),bytes(0,256),url_enc]"
)
FIELDS = 11
ACCESS_FIELDS = FIELDS + 5
#: The longest line that HAProxy may write, of each of the two.
LINE_BYTES = 1024
ACCESS_LINE_BYTES = 3072
#: About 900 bytes each.
MOST_CONTAINERS = 60_000
FORGET_SECONDS = 3600.0
#: About 4 ms of work, in which lines wait in the socket.
APPS_AT_ONCE = 200

_NO_SERVER = b"<NOSRV>"
_HANDED_OVER = b"newest"
_SLOWEST_KEPT_MS = 1024
#: The bucket of each short time, looked up instead of searched for.
_BUCKETS = tuple(bisect_left(ANSWER_BOUNDS_MS, milliseconds) for milliseconds in range(_SLOWEST_KEPT_MS))


Access = Callable[[str, str, Sequence[bytes]], None]
VersionOf = Callable[[str, str], str]


@dataclass(slots=True)
class _Container:
    app: str
    name: str
    seen: float
    version: str
    flow: Flow
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
    #: Bytes in, bytes out, milliseconds; without what flows have not folded yet.
    totals: list[int] = field(default_factory=lambda: [0, 0, 0])
    flows: dict[str, Flow] = field(default_factory=dict)

    def flow(self, version: str) -> Flow:
        found = self.flows.get(version)
        if found is None:
            found = self.flows[version] = Flow(self.totals)
        return found


class Counters:
    """Any thread may call any method. ``since`` names this life of the counters; within it they only grow.

    ``malformed``: lines that are none of ours. ``homeless``: requests that found no app, by their host name or at all.
    ``listening`` and ``dropped`` are told by whoever reads the lines.
    ``version_of``: of an app's container; empty where that is not known. ``access`` is given each line that an app has.
    """

    def __init__(
        self,
        gateway: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        version_of: VersionOf | None = None,
        access: Access | None = None,
    ) -> None:
        self.since = str(uuid.uuid4())
        self.listening = False
        self.dropped = 0
        self.malformed = 0
        self.homeless = 0
        self._gateway = gateway
        self._mark = gateway.encode()
        self._clock = clock
        self._began = clock()
        self._version_of = version_of
        self._access = access
        self._fields = FIELDS if access is None else ACCESS_FIELDS
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
            second = int(now)
            for line in lines:
                try:
                    self._take(line, now, second)
                except ValueError:
                    self.malformed += 1

    def forget(self, containers: Collection[str]) -> None:
        """Containers and apps that left an hour ago. ``containers``: those that are there."""
        now = self._clock()
        before = now - FORGET_SECONDS
        with self._lock:
            for counted in self._containers.values():
                if not counted.version and (version := self._version(counted.app, counted.name)):
                    counted.version, counted.flow = version, self._apps[counted.app].flow(version)
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
                    continue
                used = {one.version for one in total.containers.values()}
                for version, flow in list(total.flows.items()):
                    if version not in used and flow.second < before:
                        flow.roll(int(now))
                        del total.flows[version]

    def of(self, app: str, *, windows: bool = False) -> AppTraffic | None:
        """None for an app that this gateway does not know."""
        with self._lock:
            counted = self._apps.get(app)
            return self._told(app, counted, windows) if counted is not None else None

    def totals(self) -> dict[str, object]:
        """Every app without its containers, and what is no app's. ``busy_ms``: what its requests took together.

        Not of one moment: whoever reads the lines gets its turn in between.
        """
        apps: dict[str, object] = {}
        with self._lock:
            known = list(self._apps.items())
        for start in range(0, len(known), APPS_AT_ONCE):
            with self._lock:
                second = int(self._clock())
                apps.update((app, _totals(counted, second)) for app, counted in known[start : start + APPS_AT_ONCE])
            time.sleep(0)
        with self._lock:
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

    def _told(self, app: str, counted: _App, windows: bool) -> AppTraffic:
        lately: dict[str, dict[str, Window]] = {}
        if windows:
            now = self._clock()
            lately = {version: flow.windows(now, now - self._began) for version, flow in counted.flows.items()}
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
            windows=lately,
        )

    def _take(self, line: bytes, now: float, second: int) -> None:
        """Raises ValueError for a line that is not one of ours."""
        words = line.split()
        if len(words) != self._fields or words[0] != self._mark:
            raise ValueError
        _, backend, server, *numbers, end, sent, got = words[:FIELDS]
        status, connect, answer, everything = map(int, numbers[:4])
        kind = status // 100
        if not 1 <= kind <= 5:
            kind = 0
        bytes_in, bytes_out = max(0, int(sent)), max(0, int(got))
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
            version, flow = "", total.flow("")
            bucket = -1
        else:
            container = self._containers.get(server) or self._welcome(server, app, now)
            if container.app != app:
                # A late line: its slot is somebody else's by now.
                app = container.app
                total = self._apps[app]
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
                bucket = _BUCKETS[waited]
            else:
                bucket = bisect_left(ANSWER_BOUNDS_MS, max(0, waited))
            container.histogram[bucket] += 1
            version, flow = container.version, container.flow
        if flow.second != second:
            flow.roll(second)
        cells = flow.cells
        cells[kind] += 1
        cells[BYTES_IN] += bytes_in
        cells[BYTES_OUT] += bytes_out
        if 0 <= everything <= BUSY_MS:
            cells[BUSY] += everything
        elif everything > 0:
            cells[BUSY] += BUSY_MS
            cells[LONG] += min(everything, LONG_MS) - BUSY_MS
            cells[LONGER] += max(0, min(everything, LONGER_MS) - LONG_MS)
        if bucket >= 0:
            cells[TIMES + bucket] += 1
        if self._access is not None:
            self._access(app, version, words)

    def _welcome(self, server: bytes, app: str, now: float) -> _Container:
        name = contract.container_id(server.decode("ascii"))
        if len(self._containers) >= MOST_CONTAINERS:
            # The quietest twentieth goes, so that this is rare.
            quiet = sorted(self._containers.items(), key=lambda item: item[1].seen)
            for gone, counted in quiet[: MOST_CONTAINERS // 20 + 1]:
                self._drop(gone, counted)
        version = self._version(app, name)
        made = _Container(app, name, now, version, self._apps[app].flow(version))
        self._containers[server] = self._apps[app].containers[server] = made
        return made

    def _version(self, app: str, container: str) -> str:
        return self._version_of(app, container) if self._version_of is not None else ""

    def _drop(self, name: bytes, counted: _Container) -> None:
        del self._containers[name]
        del self._apps[counted.app].containers[name]


def _whose(name: str) -> str:
    """The app of a slot: those who test its canary are its visitors."""
    return name.removesuffix(TESTERS)


def _totals(counted: _App, second: int) -> dict[str, object]:
    for flow in counted.flows.values():
        flow.roll(max(second, flow.second))
    return {
        "requests": counted.requests,
        "classes": dict(zip(STATUS_CLASSES, counted.classes, strict=True)),
        "unserved": counted.unserved,
        "broken": counted.broken,
        "bytes_in": counted.totals[0],
        "bytes_out": counted.totals[1],
        "busy_ms": counted.totals[2],
    }
