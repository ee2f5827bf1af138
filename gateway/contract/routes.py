"""The route of an app: what leads to it, and how its instances share it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.contract.policies import Policy
from gateway.contract.words import (
    FORMAT,
    MAX_WEIGHT,
    ContractError,
    app_id,
    container_id,
    host_name,
    json_count,
    json_list,
    json_mapping,
    json_number,
    json_object,
    json_text,
    matched,
    path_prefix,
    version,
    wildcard_name,
)


@dataclass(frozen=True, slots=True)
class Group:
    """Containers that share one part of the traffic (0 to 100), whatever their version: those of one release."""

    share: int
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A host name or a wildcard (``*.example.com``), and the path prefix under which it leads to the app."""

    host: str
    prefix: str = "/"


PROTOCOLS = ("http", "h2", "tcp")
MOST_PLACES = 1000
MOST_CHALLENGES = 100
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KEY_AUTHORIZATION = re.compile(r"[A-Za-z0-9_-]{1,128}\.[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Route:
    """The route of one app. Written last in each publication: a change of this node commits the addresses.

    ``domains``: host names of which everything is the app's. ``places``: wildcards, and parts of host names; the
    longest prefix counts, and a name itself before a wildcard.
    ``weights`` gives each version its share of the traffic, 0 to 100; a version that is not named gets none.
    ``groups``, where there are any, count instead of ``weights``; a container that none of them names gets nothing.
    ``protocol``: what its instances speak: ``http``, ``h2`` (HTTP/2 without TLS, as gRPC servers do), or ``tcp``.
    ``ports``: of the gateway's, that lead to an app of TCP. ``passthrough``: host names whose TLS is the app's own.
    ``challenges``: ACME's (RFC 8555, 8.3): token -> key authorization.
    ``revision`` counts the publications of this app (for people and logs; gateways acknowledge a zxid).
    """

    app: str
    revision: int
    domains: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    groups: tuple[Group, ...] = ()
    places: tuple[Place, ...] = ()
    protocol: str = "http"
    ports: tuple[int, ...] = ()
    passthrough: tuple[str, ...] = ()
    challenges: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        body: dict[str, object] = {
            "format": FORMAT,
            "app": self.app,
            "revision": self.revision,
            "domains": list(self.domains),
            "weights": dict(self.weights),
            "policy": self.policy.to_body(),
        }
        # Left out where there are none: a route that did not change is the same text as before there were any.
        if self.groups:
            body["groups"] = [{"share": one.share, "containers": list(one.containers)} for one in self.groups]
        if self.places:
            body["places"] = [[one.host, one.prefix] for one in self.places]
        if self.protocol != "http":
            body["protocol"] = self.protocol
        for name in ("ports", "passthrough"):
            if getattr(self, name):
                body[name] = list(getattr(self, name))
        if self.challenges:
            body["challenges"] = dict(self.challenges)
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Route:
        body = json_object(raw)
        weights = body.get("weights")
        domains = body.get("domains")
        if not isinstance(weights, dict) or not isinstance(domains, list):
            raise ContractError("a route needs domains and weights")
        for share in weights.values():
            if type(share) is not int or not 0 <= share <= MAX_WEIGHT:
                raise ContractError(f"not a weight: {share!r}")
        protocol = body.get("protocol", "http")
        if protocol not in PROTOCOLS:
            raise ContractError(f"not a protocol: {protocol!r}")
        return cls(
            app=app_id(json_text(body, "app")),
            revision=json_number(body, "revision"),
            domains=tuple(host_name(str(name)) for name in domains),
            weights={version(tag): share for tag, share in weights.items()},
            policy=Policy.from_body(body.get("policy", {})),
            groups=_groups(body.get("groups", [])),
            places=tuple(_place(one) for one in json_list(body.get("places", []), "places", MOST_PLACES)),
            protocol=str(protocol),
            ports=tuple(_port(one) for one in json_list(body.get("ports", []), "ports", MOST_PLACES)),
            passthrough=tuple(
                host_name(str(one)) for one in json_list(body.get("passthrough", []), "passthrough", MOST_PLACES)
            ),
            challenges=_challenges(body.get("challenges", {})),
        )


def _place(found: object) -> Place:
    if not isinstance(found, list) or len(found) != 2:
        raise ContractError("a place is a host and a prefix")
    host, prefix = str(found[0]), str(found[1])
    return Place(wildcard_name(host) if host.startswith("*") else host_name(host), path_prefix(prefix))


def _port(found: object) -> int:
    port = json_count(found, "a port")
    if not 1 <= port <= 65535:
        raise ContractError(f"not a port: {port}")
    return port


def _challenges(found: object) -> dict[str, str]:
    body = json_mapping(found, "challenges")
    if len(body) > MOST_CHALLENGES:
        raise ContractError(f"more than {MOST_CHALLENGES} challenges")
    return {
        matched(_TOKEN, "a token", token): matched(_KEY_AUTHORIZATION, "a key authorization", str(answer))
        for token, answer in body.items()
    }


def _groups(found: object) -> tuple[Group, ...]:
    """Raises ContractError also for a container in two groups: it could get one share only."""
    if not isinstance(found, list):
        raise ContractError("groups is not a list")
    groups = []
    for one in found:
        if not isinstance(one, dict) or not isinstance(names := one.get("containers"), list):
            raise ContractError("a group needs a share and containers")
        share = json_number(one, "share")
        if share > MAX_WEIGHT:
            raise ContractError(f"not a share: {share!r}")
        groups.append(Group(share, tuple(container_id(str(name)) for name in names)))
    named = [name for group in groups for name in group.containers]
    if len(set(named)) < len(named):
        raise ContractError("a container is named twice")
    return tuple(groups)
