"""What the platform and its gateways agree on: ZooKeeper paths, payloads and their version.

The only module of this package that the platform may import. Everything that crosses is parsed into a type
here, so that no text typed by a tenant travels on unparsed.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

FORMAT = 1
ROOT = "/caas"
EPOCH_PATH = f"{ROOT}/epoch"
SERVICE_PATH = f"{ROOT}/service"
ADDRESS_PATH = f"{SERVICE_PATH}/address"
ROUTE_PATH = f"{SERVICE_PATH}/route"
GATEWAY_PATH = f"{ROOT}/gateway"

MAX_WEIGHT = 100

#: Upper bounds of the buckets that answer times are counted in, in milliseconds; one more bucket is for longer ones.
#: Ten a decade: a percentile is known to about a quarter of its value.
ANSWER_BOUNDS_MS: tuple[int, ...] = (
    *(1, 2, 3, 4, 5, 6, 8),
    *(step * 10**power for power in range(4) for step in (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)),
    *(100_000, 120_000),
)
ANSWER_BUCKETS = len(ANSWER_BOUNDS_MS) + 1

_APP_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
# The tag grammar of the distribution specification (opencontainers/distribution-spec, "Pulling manifests").
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
_GATEWAY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LIFE = re.compile(r"[0-9a-f-]{36}")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class ContractError(ValueError):
    """A path or a payload that does not follow the contract."""


def _matched(pattern: re.Pattern[str], what: str, text: str) -> str:
    if not pattern.fullmatch(text):
        raise ContractError(f"not {what}: {text[:80]!r}")
    return text


def app_id(text: str) -> str:
    return _matched(_APP_ID, "an app id", text)


def version(text: str) -> str:
    if text in {".", ".."}:
        raise ContractError(f"not a version: {text!r}")
    return _matched(_VERSION, "a version", text)


def container_id(text: str) -> str:
    return _matched(_CONTAINER_ID, "a container id", text)


def gateway_id(text: str) -> str:
    return _matched(_GATEWAY_ID, "a gateway id", text)


def host_name(text: str) -> str:
    """A DNS name in lower case (RFC 1123 labels, at most 253 characters), without a trailing dot."""
    name = text.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ContractError(f"not a host name: {text[:80]!r}")
    return name


def app_address_path(app: str) -> str:
    return f"{ADDRESS_PATH}/{app_id(app)}"


def version_path(app: str, tag: str) -> str:
    return f"{app_address_path(app)}/{version(tag)}"


def instance_path(app: str, tag: str, container: str) -> str:
    return f"{version_path(app, tag)}/{container_id(container)}"


def route_path(app: str) -> str:
    return f"{ROUTE_PATH}/{app_id(app)}"


def gateway_path(gateway: str) -> str:
    return f"{GATEWAY_PATH}/{gateway_id(gateway)}"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where an instance listens: an IP address and a TCP port, written ``host:port`` (``[v6]:port``)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            if "%" in host:  # ipaddress takes any text at all as the scope of an IPv6 address
                raise ValueError
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ContractError(f"not an address: {text[:80]!r}") from None
        if not colon or bracketed != (address.version == 6) or not re.fullmatch(r"[1-9][0-9]{0,4}", port):
            raise ContractError(f"not an address: {text[:80]!r}")
        if int(port) > 65535:
            raise ContractError(f"not a port: {port}")
        return cls(str(address), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Group:
    """Containers that share one part of the traffic (0 to 100), whatever their version: those of one release."""

    share: int
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """The route of one app. Written last in each publication: a change of this node commits the addresses.

    ``weights`` gives each version its share of the traffic, 0 to 100; a version that is not named gets none.
    ``groups``, where there are any, count instead of ``weights``; a container that none of them names gets nothing.
    ``policy``: {"asleep": true} says that the app is scaled to zero instances.
    ``revision`` counts the publications of this app (for people and logs; gateways acknowledge a zxid).
    """

    app: str
    revision: int
    domains: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    policy: Mapping[str, object] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()

    def to_json(self) -> bytes:
        body: dict[str, object] = {
            "format": FORMAT,
            "app": self.app,
            "revision": self.revision,
            "domains": list(self.domains),
            "weights": dict(self.weights),
            "policy": dict(self.policy),
        }
        if self.groups:
            # Left out where there are none: a route that did not change is the same text as before there were groups.
            body["groups"] = [{"share": one.share, "containers": list(one.containers)} for one in self.groups]
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Route:
        body = _object(raw)
        weights = body.get("weights")
        policy = body.get("policy", {})
        domains = body.get("domains")
        if not isinstance(weights, dict) or not isinstance(policy, dict) or not isinstance(domains, list):
            raise ContractError("a route needs domains, weights and a policy")
        for share in weights.values():
            if type(share) is not int or not 0 <= share <= MAX_WEIGHT:
                raise ContractError(f"not a weight: {share!r}")
        return cls(
            app=app_id(_text(body, "app")),
            revision=_number(body, "revision"),
            domains=tuple(host_name(str(name)) for name in domains),
            weights={version(tag): share for tag, share in weights.items()},
            policy=policy,
            groups=_groups(body.get("groups", [])),
        )


def _groups(found: object) -> tuple[Group, ...]:
    """Raises ContractError also for a container in two groups: it could get one share only."""
    if not isinstance(found, list):
        raise ContractError("groups is not a list")
    groups = []
    for one in found:
        if not isinstance(one, dict) or not isinstance(names := one.get("containers"), list):
            raise ContractError("a group needs a share and containers")
        share = _number(one, "share")
        if share > MAX_WEIGHT:
            raise ContractError(f"not a share: {share!r}")
        groups.append(Group(share, tuple(container_id(str(name)) for name in names)))
    named = [name for group in groups for name in group.containers]
    if len(set(named)) < len(named):
        raise ContractError("a container is named twice")
    return tuple(groups)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a live gateway says of itself in its ephemeral node.

    ``served`` is the ZooKeeper transaction id (zxid) up to which every change is in force in this gateway;
    zxids only compare within one ``epoch`` (one life of the ZooKeeper data). ``stats`` is where its counters are
    read, as ``IP:port``; empty where that is nowhere.
    """

    gateway: str
    epoch: str
    served: int
    stats: str = ""

    def to_json(self) -> bytes:
        body = {"format": FORMAT, "gateway": self.gateway, "epoch": self.epoch, "served": self.served}
        if self.stats:
            body["stats"] = self.stats
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> GatewayState:
        body = _object(raw)
        try:
            stats = str(Address.parse(_text(body, "stats"))) if "stats" in body else ""
        except ContractError:
            # A gateway without counters still routes: ports must go on waiting for its acknowledgement.
            stats = ""
        return cls(gateway_id(_text(body, "gateway")), _text(body, "epoch"), _number(body, "served"), stats)


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
        body = _mapping(found, "a container's counters")
        histogram = body.get("histogram")
        if not isinstance(histogram, list) or len(histogram) != ANSWER_BUCKETS:
            raise ContractError("not a histogram")
        counts = tuple(_count(count, "histogram") for count in histogram)
        return cls(_number(body, "requests"), _number(body, "errors_5xx"), counts)


#: The first digit of an answer's status; "0" for requests whose client went away unanswered.
STATUS_CLASSES = ("0", "1", "2", "3", "4", "5")


@dataclass(frozen=True, slots=True)
class AppTraffic:
    """What one gateway counted of one app in the life ``since`` of its counters; they only grow within one life.

    ``unserved``: answered by the gateway itself, because no instance could be asked. ``broken``: answers that broke
    off in the middle. ``listening`` and ``dropped`` say how complete it is: lines that the gateway lost, of all apps.
    ``busy``: containers that get no new requests and still answer so many. One that is acknowledged as gone and does
    not stand here has answered its last.
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

    def to_json(self) -> bytes:
        body = {
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
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> AppTraffic:
        body = _object(raw)
        classes = _mapping(body.get("classes"), "classes")
        if classes.keys() != set(STATUS_CLASSES):
            raise ContractError("not the classes of statuses")
        listening = body.get("listening")
        if not isinstance(listening, bool):
            raise ContractError("listening is neither true nor false")
        return cls(
            gateway=gateway_id(_text(body, "gateway")),
            app=app_id(_text(body, "app")),
            since=_matched(_LIFE, "a life of counters", _text(body, "since")),
            requests=_number(body, "requests"),
            classes={name: _number(classes, name) for name in STATUS_CLASSES},
            unserved=_number(body, "unserved"),
            broken=_number(body, "broken"),
            listening=listening,
            dropped=_number(body, "dropped"),
            containers={
                container_id(name): ContainerTraffic.from_body(counts)
                for name, counts in _mapping(body.get("containers"), "containers").items()
            },
            busy={
                container_id(name): _count(number, "busy")
                for name, number in _mapping(body.get("busy", {}), "busy").items()
            },
        )


def _object(raw: bytes) -> dict[str, object]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise ContractError(f"not JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ContractError(f"not an object of format {FORMAT}")
    return body


def _text(body: dict[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise ContractError(f"{key} is not text")
    return value


def _number(body: Mapping[str, object], key: str) -> int:
    return _count(body.get(key), key)


def _count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ContractError(f"{what} is not a number")
    return value


def _mapping(found: object, what: str) -> dict[str, object]:
    """Of JSON, whose keys are always text."""
    if not isinstance(found, dict):
        raise ContractError(f"{what}: not an object")
    return found
