"""From operations to HAProxy commands, and from HAProxy's listings to a data plane. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.contract import Address, ContractError
from gateway.frame import CERTIFICATES
from gateway.model import (
    LEADING,
    TCP_FIRST,
    AddCertificate,
    AddServer,
    DropCertificate,
    DropEntry,
    Operation,
    Plane,
    RemoveServer,
    Server,
    SetEntry,
    SetWeight,
    Table,
    backend_name,
    slot_of,
)
from gateway.render import FALLBACK, server_options

REGISTERED = "New server registered."
DELETED = "Server deleted."
#: Payload lines are echoed as "+ " (management guide, 9.3).
_DONE = re.compile(
    r"(?:\+ )*(?:New empty certificate store '[^']*'!|Transaction (?:created|updated) for certificate \S*!"
    r"|(?:Committing|Inserting)[^\n]*\n\.*Success!|Certificate '[^']*' deleted!"
    r"|Entry '[^']*' deleted in crtlist '[^']*'!)"
)

INSERT_CERTIFICATES = f"add ssl crt-list {CERTIFICATES}"

# FMAINT, IMAINT, CMAINT, FDRAIN, IDRAIN, RMAINT (HAProxy 2.6, management guide, `show servers state`).
_OUT_OF_SERVICE = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20


def server_name(slot: int, name: str) -> str:
    return f"{backend_name(slot)}/{name}"


def commands(operation: Operation) -> tuple[str, ...]:
    """A removed server goes to maintenance, not to drain: a draining one still gets requests of a client
    connection that sticks to it (HAProxy does that after a 401), one in maintenance gets none. Requests in
    progress finish in both."""
    match operation:
        case AddServer(slot, server):
            name = server_name(slot, server.name)
            return (
                f"add server {name} {server.address} weight {server.weight:d} {server_options(slot, server)}",
                f"enable health {name}",
                f"enable server {name}",
            )
        case SetWeight(slot, name, weight):
            return (f"set weight {server_name(slot, name)} {weight:d}",)
        case RemoveServer(slot, name):
            return (f"set server {server_name(slot, name)} state maint",)
        case SetEntry(table, key, value, new):
            return (f"{'add' if new else 'set'} map {table} {key} {value}",)
        case DropEntry(table, key):
            return (f"del map {table} {key}",)
        case DropCertificate(file):
            return (f"del ssl crt-list {CERTIFICATES} {file}", f"del ssl cert {file}")
        case AddCertificate(file):
            # The second with the PEM; then INSERT_CERTIFICATES with the list's line.
            return (f"new ssl cert {file}", f"set ssl cert {file}", f"commit ssl cert {file}")


def restore(slot: int, server: Server) -> tuple[str, ...]:
    """Takes a server that was leaving, and is still there, back into service."""
    name = server_name(slot, server.name)
    return (f"set weight {name} {server.weight:d}", f"set server {name} state ready")


def delete(slot: int, name: str) -> str:
    return f"del server {server_name(slot, name)}"


def end_sessions(slot: int, name: str) -> str:
    return f"shutdown sessions server {server_name(slot, name)}"


def hand_over(pid: int) -> tuple[str, ...]:
    """For the master: makes a replaced worker hand all further requests to the newest one."""
    return tuple(f"@!{pid:d} clear map {table}" for table in LEADING)


def information(pid: int) -> str:
    """For the master: what a worker says of itself."""
    return f"@!{pid:d} show info"


def is_stopping(information: str) -> bool:
    """Whether the worker has heard that it was replaced (management guide, "show info": Stopping)."""
    return "Stopping: 1" in information.splitlines()


def abort_certificate(file: str) -> str:
    return f"abort ssl cert {file}"


def accepted(reply: str) -> bool:
    return reply in ("", REGISTERED) or _DONE.fullmatch(reply) is not None


@dataclass(frozen=True, slots=True)
class Observed:
    """``leaving``: servers that are out of service and wait to be deleted."""

    plane: Plane
    leaving: dict[tuple[int, str], Address]


LISTINGS = (
    "show backend",
    "show servers state",
    f"show ssl crt-list {CERTIFICATES}",
    *(f"show map {table}" for table in Table),
)


def observe(backends: str, servers: str, certificates: str, *maps: str) -> Observed:
    """From the answers to LISTINGS. Raises ContractError for one that is not one of ours."""
    found = [slot for line in backends.splitlines() if (slot := slot_of(line.strip())) is not None]
    slots = sorted(slot for slot in found if slot < TCP_FIRST)
    tcp = sorted(slot - TCP_FIRST for slot in found if slot >= TCP_FIRST)
    if slots != list(range(len(slots))) or tcp != list(range(len(tcp))):
        raise ContractError("the backends are not numbered from 0")
    inside: dict[int, dict[str, Server]] = {}
    leaving: dict[tuple[int, str], Address] = {}
    for slot, server, admin in _servers(servers.splitlines()):
        if admin & _OUT_OF_SERVICE:
            leaving[slot, server.name] = server.address
        else:
            inside.setdefault(slot, {})[server.name] = server
    tables: dict[Table, dict[str, str]] = {}
    for table, listing in zip(Table, maps, strict=True):
        for line in listing.splitlines():
            words = line.split()
            if len(words) == 3:
                tables.setdefault(table, {}).setdefault(words[1], words[2])
    lines = [line.split() for line in certificates.splitlines() if not line.startswith("#")]
    shown = {words[0]: tuple(words[1:]) for words in lines if words and words[0] != FALLBACK}
    return Observed(Plane(len(slots), inside, tables, len(tcp), shown), leaving)


def _servers(lines: Iterable[str]) -> Iterable[tuple[int, Server, int]]:
    for line in lines:
        words = line.split()
        if len(words) < 19 or line.startswith("#") or (slot := slot_of(words[1])) is None:
            continue
        host = f"[{words[4]}]" if ":" in words[4] else words[4]
        address = Address.parse(f"{host}:{words[18]}")
        yield slot, Server(words[3], address, int(words[7])), int(words[6])


def used_connections(listing: str) -> dict[str, int]:
    """`show servers conn`: server name -> connections that carry a request."""
    lines = [line.split() for line in listing.splitlines()]
    columns = next((words[1:] for words in lines if words[:1] == ["#"]), [])
    if "used_cur" not in columns:
        raise ContractError("show servers conn has no used_cur")
    position = columns.index("used_cur")
    return {
        words[0].partition("/")[2]: int(words[position]) for words in lines if len(words) > position and words[0] != "#"
    }
