"""From wanted apps to a wanted data plane, and from one data plane to another as run-time operations. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from gateway.contract import Address
from gateway.model import (
    LEADING,
    TCP_FIRST,
    AddCertificate,
    AddServer,
    AppState,
    DropCertificate,
    DropEntry,
    Operation,
    Plane,
    RemoveServer,
    Server,
    SetEntry,
    SetWeight,
    Table,
    slot_of,
)
from gateway.tables import TESTERS, Policies, tables
from gateway.weights import USUAL, group_weights, server_weights


class Memory:
    """What each app came to in the last plan. One that is the same object now comes to the same."""

    def __init__(self) -> None:
        self.servers: dict[str, tuple[AppState, dict[str, Server]]] = {}
        self.policies: Policies = {}


def wanted_plane(
    apps: Mapping[str, AppState],
    slots: Mapping[str, int],
    owned: Mapping[str, str],
    declared: int,
    declared_tcp: int = 0,
    memory: Memory | None = None,
) -> Plane:
    """Every app must have a slot."""
    known = memory if memory is not None else Memory()
    found: dict[str, tuple[AppState, dict[str, Server]]] = {}
    servers: dict[int, Mapping[str, Server]] = {}
    for app, state in apps.items():
        before = known.servers.get(app)
        found[app] = before if before is not None and before[0] is state else (state, servers_of(state))
        if not (mine := found[app][1]):
            continue
        servers[slots[app]] = mine
        testers = [name for name in state.route.policy.testers if name in mine]
        if testers and (canary := slots.get(app + TESTERS)) is not None:
            servers[canary] = {name: replace(mine[name], weight=USUAL) for name in testers}
    known.servers = found
    return Plane(declared, servers, tables(apps, slots, owned, frozenset(servers), known.policies), declared_tcp)


def servers_of(state: AppState) -> dict[str, Server]:
    """What the slot of an app holds. A container that two versions list counts for the first one by name."""
    addresses: dict[str, Address] = {}
    names: dict[str, list[str]] = {}
    for tag in sorted(state.instances):
        fresh = [name for name in sorted(state.instances[tag]) if name not in addresses]
        names[tag] = fresh
        addresses.update({name: state.instances[tag][name] for name in fresh})
    if not addresses:
        return {}
    h2 = state.route.protocol == "h2"
    if state.route.groups:
        weights = group_weights(state.route.groups, addresses)
    else:
        weights = server_weights(state.route.weights, names)
    return {name: Server(name, addresses[name], weights[name], h2) for name in addresses}


def difference(applied: Plane, wanted: Plane, only: Collection[int] | None = None) -> tuple[Operation, ...]:
    """The operations that turn ``applied`` into ``wanted``, in an order that leaves no gap on the way.

    What leads to a backend goes first where it leads nowhere any more (nobody may reach a slot through a name that it
    lost), then new servers before old ones leave, weights up before weights down. What is said of a backend stands
    before a name leads there, and an app is asleep only once its servers are gone. A name that goes from one table to
    another stands in both for a moment; so does one that gets another certificate, and the older one counts until it
    is gone. ``only``: nothing but the servers of these slots is another.
    """
    if only is not None:
        return _of_servers(applied, wanted, only)
    here = {key for table in LEADING for key in map(_bare, wanted.table(table))}
    drops: list[Operation] = []
    moved: list[Operation] = []
    for table in LEADING:
        for key in sorted(applied.table(table).keys() - wanted.table(table).keys()):
            (moved if _bare(key) in here else drops).append(DropEntry(table, key))
    servers = _of_servers(applied, wanted, applied.servers.keys() | wanted.servers.keys())
    removed = [one for one in servers if _leaves(one)]
    served = [one for one in servers if not _leaves(one)]
    leads = [one for table in LEADING for one in _entries(table, applied, wanted)]
    said: list[Operation] = []
    slept: list[Operation] = []
    for table in Table:
        if table not in LEADING:
            (slept if table == Table.ASLEEP else said).extend(_entries(table, applied, wanted))
            gone = sorted(applied.table(table).keys() - wanted.table(table).keys())
            said.extend(DropEntry(table, key) for key in gone)
    have_files, want_files = applied.certificates, wanted.certificates
    shown = [AddCertificate(file, want_files[file]) for file in sorted(want_files.keys() - have_files.keys())]
    hidden = [DropCertificate(file) for file in sorted(have_files.keys() - want_files.keys())]
    return (*shown, *drops, *served, *said, *leads, *moved, *removed, *slept, *hidden)


def _of_servers(applied: Plane, wanted: Plane, slots: Collection[int]) -> tuple[Operation, ...]:
    replaced: list[Operation] = []
    added: list[Operation] = []
    raised: list[Operation] = []
    lowered: list[Operation] = []
    removed: list[Operation] = []
    for slot in sorted(slots):
        have, want = applied.servers.get(slot, {}), wanted.servers.get(slot, {})
        if have is want:
            continue  # most of thousands, after a small change
        added.extend(AddServer(slot, want[name]) for name in sorted(want.keys() - have.keys()))
        removed.extend(RemoveServer(slot, name) for name in sorted(have.keys() - want.keys()))
        for name in sorted(have.keys() & want.keys()):
            old, new = have[name], want[name]
            if old.address != new.address:
                replaced.append(RemoveServer(slot, name, replaced=True))
                added.append(AddServer(slot, new))
            elif old.weight != new.weight:
                (raised if new.weight > old.weight else lowered).append(SetWeight(slot, name, new.weight))
    return (*replaced, *added, *raised, *lowered, *removed)


def _leaves(operation: Operation) -> bool:
    return isinstance(operation, RemoveServer) and not operation.replaced


def _entries(table: Table, applied: Plane, wanted: Plane) -> Iterator[SetEntry]:
    have = applied.table(table)
    for key, value in sorted((key, value) for key, value in wanted.table(table).items() if have.get(key) != value):
        yield SetEntry(table, key, value, new=key not in have)


def _bare(key: str) -> str:
    """The host name of a key, or the port."""
    return key.partition("/")[0]


def fits(applied: Plane, wanted: Plane) -> bool:
    """Whether run-time operations are enough: every slot in use is declared in the running HAProxy."""
    used = {*wanted.servers, *(slot_of(name) for table in LEADING for name in wanted.table(table).values())}
    declared = wanted.slots <= applied.slots and wanted.tcp_slots <= applied.tcp_slots
    return declared and all(slot is not None and _is_declared(slot, applied) for slot in used)


def _is_declared(slot: int, plane: Plane) -> bool:
    return slot < plane.slots if slot < TCP_FIRST else slot - TCP_FIRST < plane.tcp_slots


def clipped(wanted: Plane, running: Plane) -> Plane:
    """What of a wanted plane a running HAProxy can be brought to, with the slots that it has."""
    return Plane(
        running.slots,
        {slot: servers for slot, servers in wanted.servers.items() if _is_declared(slot, running)},
        {
            table: {key: value for key, value in entries.items() if _can_stand(table, value, running)}
            for table, entries in wanted.tables.items()
        },
        running.tcp_slots,
        wanted.certificates,
    )


def _can_stand(table: Table, value: str, plane: Plane) -> bool:
    slot = slot_of(value) if table in (*LEADING, Table.CANARY) else None
    return slot is None or _is_declared(slot, plane)
