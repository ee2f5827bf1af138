"""The two pictures that the gateway compares: apps as the platform wants them, and HAProxy's data plane.

Pure values; the operations at the end are the only ways in which a running data plane changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

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
    """A server line: the name is the container id, the weight is HAProxy's (0 to 256).

    ``h2``: it speaks HTTP/2 without TLS. HAProxy does not tell, so it does not count where two are compared; an app
    that changes it gets new instances by it.
    """

    name: str
    address: Address
    weight: int
    h2: bool = field(default=False, compare=False)


class Table(StrEnum):
    """HAProxy's maps, by file name. All that is looked up for a request stands in one of them: key -> value, of words.

    ``HOST`` and ``PLACE`` lead to a backend: a name, or a wildcard; a name, a path prefix and a slash. ``PORT`` and
    ``PASSTHROUGH`` lead to one of TCP. All others say something of a backend, and have its name in front of the key.
    """

    HOST = "host.map"
    PLACE = "place.map"
    PORT = "port.map"
    PASSTHROUGH = "passthrough.map"
    #: Letters that switch rules on; see gateway.tables.
    POLICY = "policy.map"
    ASLEEP = "asleep.map"
    CHALLENGE = "challenge.map"
    CANARY = "canary.map"
    DENY = "deny.map"
    ALLOW = "allow.map"
    SALT = "salt.map"
    PERSON = "person.map"
    APP_RATE = "app-rate.map"
    CLIENT_RATE = "client-rate.map"
    BODY = "body.map"
    HEADER = "header.map"
    HOLD = "hold.map"
    TIMEOUT = "timeout.map"
    HSTS = "hsts.map"


#: By these a request finds its backend. An order matters only between them and all else.
LEADING = (Table.HOST, Table.PLACE, Table.PORT, Table.PASSTHROUGH)
Tables = Mapping[Table, Mapping[str, str]]
#: Backends of TCP are numbered from here on.
TCP_FIRST = 1_000_000


@dataclass(frozen=True, slots=True)
class Plane:
    """What HAProxy holds: ``slots`` backends s00000.., ``tcp_slots`` backends t00000.., servers of the used ones by the
    number of the slot (TCP's from TCP_FIRST on), and tables; one that is left out is empty. ``certificates``: file ->
    the names that it is shown for, each in one file only.
    """

    slots: int
    servers: Mapping[int, Mapping[str, Server]] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)
    tcp_slots: int = 0
    certificates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def table(self, name: Table) -> Mapping[str, str]:
        return self.tables.get(name, {})


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
class SetEntry:
    """``new`` tells `add map` from `set map`: HAProxy accepts a second `add` of a key, and the first wins."""

    table: Table
    key: str
    value: str
    new: bool


@dataclass(frozen=True, slots=True)
class DropEntry:
    table: Table
    key: str


@dataclass(frozen=True, slots=True)
class AddCertificate:
    """A file never changes: a certificate that is renewed, or gets another name, is another file."""

    file: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DropCertificate:
    file: str


Operation = AddServer | SetWeight | RemoveServer | SetEntry | DropEntry | AddCertificate | DropCertificate


def backend_name(slot: int) -> str:
    return f"s{slot:05d}" if slot < TCP_FIRST else f"t{slot - TCP_FIRST:05d}"


_BACKEND = re.compile(r"([st])([0-9]{5,6})")


def slot_of(backend: str) -> int | None:
    """The number behind a backend's name; None for a backend that is no slot."""
    found = _BACKEND.fullmatch(backend)
    if found is None:
        return None
    return int(found[2]) + (TCP_FIRST if found[1] == "t" else 0)
