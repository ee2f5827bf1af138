"""What a gateway counted, as it tells the platform."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.contract.words import (
    FORMAT,
    LIFE,
    ContractError,
    app_id,
    container_id,
    gateway_id,
    json_count,
    json_mapping,
    json_number,
    json_object,
    json_text,
    matched,
    version,
)

#: Upper bounds of the buckets that answer times are counted in, in milliseconds; one more bucket is for longer ones.
#: Ten a decade: a percentile is known to about a quarter of its value.
ANSWER_BOUNDS_MS: tuple[int, ...] = (
    *(1, 2, 3, 4, 5, 6, 8),
    *(step * 10**power for power in range(4) for step in (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)),
    *(100_000, 120_000),
)
ANSWER_BUCKETS = len(ANSWER_BOUNDS_MS) + 1


@dataclass(frozen=True, slots=True)
class ContainerTraffic:
    """What one container answered. ``errors_5xx`` includes answers that broke off in the middle.

    ``histogram`` counts answer times (connecting, and waiting for the head of the answer) by ANSWER_BOUNDS_MS; an
    answer that never came counts with the time that was waited for it.
    """

    requests: int
    errors_5xx: int
    histogram: tuple[int, ...]

    def to_body(self) -> dict[str, object]:
        return {"requests": self.requests, "errors_5xx": self.errors_5xx, "histogram": list(self.histogram)}

    @classmethod
    def from_body(cls, found: object) -> ContainerTraffic:
        body = json_mapping(found, "a container's counters")
        histogram = body.get("histogram")
        if not isinstance(histogram, list) or len(histogram) != ANSWER_BUCKETS:
            raise ContractError("not a histogram")
        counts = tuple(json_count(count, "histogram") for count in histogram)
        return cls(json_number(body, "requests"), json_number(body, "errors_5xx"), counts)


#: The first digit of an answer's status; "0" for requests whose client went away unanswered.
STATUS_CLASSES = ("0", "1", "2", "3", "4", "5")


#: Windows that end now, and how long each is, in seconds.
WINDOWS = {"10s": 10, "1m": 60, "1h": 3600}


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted in the last ``seconds``: nearly the window's length, or fewer where nobody counted before.

    ``busy_ms``: what the requests that ended took together, of each at most as long as the window is; divided by the
    window it is how many were in progress at a time (Little's law). ``histogram`` counts answer times as a container's
    does, of requests that an instance was asked.
    """

    seconds: float
    classes: Mapping[str, int]
    bytes_in: int
    bytes_out: int
    busy_ms: int
    histogram: tuple[int, ...]

    def to_body(self) -> dict[str, object]:
        return {
            "seconds": self.seconds,
            "classes": dict(self.classes),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "busy_ms": self.busy_ms,
            # Most of its buckets are empty.
            "histogram": {str(bucket): count for bucket, count in enumerate(self.histogram) if count},
        }

    @classmethod
    def from_body(cls, found: object) -> Window:
        body = json_mapping(found, "a window")
        seconds = body.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
            raise ContractError("seconds of a window")
        histogram = [0] * ANSWER_BUCKETS
        for bucket, count in json_mapping(body.get("histogram"), "histogram").items():
            if not re.fullmatch(r"[0-9]{1,3}", bucket) or int(bucket) >= ANSWER_BUCKETS:
                raise ContractError("not a bucket of answer times")
            histogram[int(bucket)] = json_count(count, "histogram")
        return cls(
            seconds=float(seconds),
            classes=_classes(body),
            bytes_in=json_number(body, "bytes_in"),
            bytes_out=json_number(body, "bytes_out"),
            busy_ms=json_number(body, "busy_ms"),
            histogram=tuple(histogram),
        )


Windows = Mapping[str, Mapping[str, Window]]


def _classes(body: Mapping[str, object]) -> dict[str, int]:
    classes = json_mapping(body.get("classes"), "classes")
    if classes.keys() != set(STATUS_CLASSES):
        raise ContractError("not the classes of statuses")
    return {name: json_number(classes, name) for name in STATUS_CLASSES}


def _windows(found: object) -> Windows:
    windows: dict[str, dict[str, Window]] = {}
    for tag, spans in json_mapping(found, "windows").items():
        body = json_mapping(spans, "windows of a version")
        if body.keys() != WINDOWS.keys():
            raise ContractError("not the windows")
        windows[version(tag) if tag else ""] = {name: Window.from_body(body[name]) for name in WINDOWS}
    return windows


@dataclass(frozen=True, slots=True)
class AppTraffic:
    """What one gateway counted of one app in the life ``since`` of its counters; they only grow within one life.

    ``unserved``: answered by the gateway itself, because no instance could be asked. ``broken``: answers that broke
    off in the middle. ``listening`` and ``dropped`` say how complete it is: lines that the gateway lost, of all apps.
    ``busy``: containers that get no new requests and still answer so many. One that is acknowledged as gone and does
    not stand here has answered its last. ``windows``: by version and window, where they were asked for; the version is
    empty for what no instance was asked, and for instances that are of no known version.
    """

    gateway: str
    app: str
    since: str
    requests: int
    classes: Mapping[str, int]
    unserved: int
    broken: int
    listening: bool
    dropped: int
    containers: Mapping[str, ContainerTraffic]
    busy: Mapping[str, int] = field(default_factory=dict)
    windows: Windows = field(default_factory=dict)

    def to_json(self) -> bytes:
        body: dict[str, object] = {
            "format": FORMAT,
            "gateway": self.gateway,
            "app": self.app,
            "since": self.since,
            "requests": self.requests,
            "classes": dict(self.classes),
            "unserved": self.unserved,
            "broken": self.broken,
            "listening": self.listening,
            "dropped": self.dropped,
            "containers": {name: counts.to_body() for name, counts in self.containers.items()},
            "busy": dict(self.busy),
        }
        if self.windows:
            body["windows"] = {
                tag: {name: window.to_body() for name, window in spans.items()} for tag, spans in self.windows.items()
            }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> AppTraffic:
        body = json_object(raw)
        listening = body.get("listening")
        if not isinstance(listening, bool):
            raise ContractError("listening is neither true nor false")
        return cls(
            gateway=gateway_id(json_text(body, "gateway")),
            app=app_id(json_text(body, "app")),
            since=matched(LIFE, "a life of counters", json_text(body, "since")),
            requests=json_number(body, "requests"),
            classes=_classes(body),
            unserved=json_number(body, "unserved"),
            broken=json_number(body, "broken"),
            listening=listening,
            dropped=json_number(body, "dropped"),
            containers={
                container_id(name): ContainerTraffic.from_body(counts)
                for name, counts in json_mapping(body.get("containers"), "containers").items()
            },
            busy={
                container_id(name): json_count(number, "busy")
                for name, number in json_mapping(body.get("busy", {}), "busy").items()
            },
            windows=_windows(body.get("windows", {})),
        )
