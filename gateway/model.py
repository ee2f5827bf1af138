"""The two pictures that the gateway compares: apps as the platform wants them, and HAProxy's data plane.

Pure values; the operations at the end are the only ways in which a running data plane changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.contract import Address, Route

Instances = Mapping[str, Mapping[str, Address]]


@dataclass(frozen=True, slots=True)
class AppState:
    """One app: its route, and its proven-healthy instances as version -> container id -> address."""

    route: Route
    instances: Instances = field(default_factory=dict)

    def count(self) -> int:
        return sum(len(containers) for containers in self.instances.values())


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """A server line: the name is the container id, the weight is HAProxy's (0 to 256)."""

    name: str
    address: Address
    weight: int


@dataclass(frozen=True, slots=True)
class Plane:
    """What HAProxy holds: ``slots`` backends s00000.., servers of the used ones, and host name -> slot.

    ``asleep``: slots of apps that are scaled to zero instances; they have no servers, and a page that says why.
    """

    slots: int
    servers: Mapping[int, Mapping[str, Server]] = field(default_factory=dict)
    hosts: Mapping[str, int] = field(default_factory=dict)
    asleep: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class AddServer:
    slot: int
    server: Server


@dataclass(frozen=True, slots=True)
class SetWeight:
    slot: int
    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """No new request reaches the server from now on; requests in progress may finish.

    ``replaced``: the name is needed again at once with another address, so nothing is waited for.
    """

    slot: int
    name: str
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class SetHost:
    """``new`` tells `add map` from `set map`: HAProxy accepts a second `add` of a key, and the first wins."""

    host: str
    slot: int
    new: bool


@dataclass(frozen=True, slots=True)
class DropHost:
    host: str


@dataclass(frozen=True, slots=True)
class FallAsleep:
    slot: int


@dataclass(frozen=True, slots=True)
class WakeUp:
    slot: int


Operation = AddServer | SetWeight | RemoveServer | SetHost | DropHost | FallAsleep | WakeUp


def backend_name(slot: int) -> str:
    return f"s{slot:05d}"
