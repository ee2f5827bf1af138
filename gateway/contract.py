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

_APP_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
# The tag grammar of the distribution specification (opencontainers/distribution-spec, "Pulling manifests").
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
_GATEWAY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
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
class Route:
    """The route of one app. Written last in each publication: a change of this node commits the addresses.

    ``weights`` gives each version its share of the traffic, 0 to 100; a version that is not named gets none.
    ``revision`` counts the publications of this app (for people and logs; gateways acknowledge a zxid).
    """

    app: str
    revision: int
    domains: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    policy: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> bytes:
        body = {
            "format": FORMAT,
            "app": self.app,
            "revision": self.revision,
            "domains": list(self.domains),
            "weights": dict(self.weights),
            "policy": dict(self.policy),
        }
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
        )


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a live gateway says of itself in its ephemeral node.

    ``served`` is the ZooKeeper transaction id (zxid) up to which every change is in force in this gateway;
    zxids only compare within one ``epoch`` (one life of the ZooKeeper data).
    """

    gateway: str
    epoch: str
    served: int

    def to_json(self) -> bytes:
        body = {"format": FORMAT, "gateway": self.gateway, "epoch": self.epoch, "served": self.served}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> GatewayState:
        body = _object(raw)
        return cls(gateway_id(_text(body, "gateway")), _text(body, "epoch"), _number(body, "served"))


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


def _number(body: dict[str, object], key: str) -> int:
    value = body.get(key)
    if type(value) is not int or value < 0:
        raise ContractError(f"{key} is not a number")
    return value
