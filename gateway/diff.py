"""From wanted apps to a wanted data plane, and from one data plane to another as run-time operations. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.contract import Address
from gateway.model import (
    AddServer,
    AppState,
    DropHost,
    FallAsleep,
    Operation,
    Plane,
    RemoveServer,
    Server,
    SetHost,
    SetWeight,
    WakeUp,
)
from gateway.weights import group_weights, server_weights


def host_owners(apps: Mapping[str, AppState], previous: Mapping[str, str]) -> dict[str, str]:
    """Host name -> app. Of two apps that claim one name, the one that has it keeps it, else the first by id.

    The platform lets only one app claim a name; this keeps a fault there from moving somebody's traffic.
    """
    owners: dict[str, str] = {}
    for app in sorted(apps):
        for host in apps[app].route.domains:
            if host not in owners or previous.get(host) == app:
                owners[host] = app
    return owners


def wanted_plane(
    apps: Mapping[str, AppState], slots: Mapping[str, int], owners: Mapping[str, str], declared: int
) -> Plane:
    """Every app must have a slot. A container that two versions list counts for the first one by name."""
    servers: dict[int, Mapping[str, Server]] = {}
    asleep: set[int] = set()
    for app, state in apps.items():
        addresses: dict[str, Address] = {}
        names: dict[str, list[str]] = {}
        for tag in sorted(state.instances):
            fresh = [name for name in sorted(state.instances[tag]) if name not in addresses]
            names[tag] = fresh
            addresses.update({name: state.instances[tag][name] for name in fresh})
        if addresses:
            if state.route.groups:
                weights = group_weights(state.route.groups, addresses)
            else:
                weights = server_weights(state.route.weights, names)
            servers[slots[app]] = {name: Server(name, addresses[name], weights[name]) for name in addresses}
        elif state.route.policy.get("asleep") is True:
            asleep.add(slots[app])
    return Plane(declared, servers, {host: slots[app] for host, app in owners.items()}, frozenset(asleep))


def difference(applied: Plane, wanted: Plane) -> tuple[Operation, ...]:
    """The operations that turn ``applied`` into ``wanted``, in an order that leaves no gap on the way.

    Host names go first (nobody may reach a slot through a name that it lost), then new servers before old
    ones leave, weights up before weights down, and a host name points to a slot once its servers are there. An app
    wakes up when its servers are there, and is asleep once they are gone.
    """
    drops: list[Operation] = [DropHost(host) for host in sorted(applied.hosts.keys() - wanted.hosts.keys())]
    replaced: list[Operation] = []
    added: list[Operation] = []
    raised: list[Operation] = []
    lowered: list[Operation] = []
    removed: list[Operation] = []
    for slot in sorted(applied.servers.keys() | wanted.servers.keys()):
        have, want = applied.servers.get(slot, {}), wanted.servers.get(slot, {})
        added.extend(AddServer(slot, want[name]) for name in sorted(want.keys() - have.keys()))
        removed.extend(RemoveServer(slot, name) for name in sorted(have.keys() - want.keys()))
        for name in sorted(have.keys() & want.keys()):
            old, new = have[name], want[name]
            if old.address != new.address:
                replaced.append(RemoveServer(slot, name, replaced=True))
                added.append(AddServer(slot, new))
            elif old.weight != new.weight:
                (raised if new.weight > old.weight else lowered).append(SetWeight(slot, name, new.weight))
    hosts: list[Operation] = [
        SetHost(host, slot, new=host not in applied.hosts)
        for host, slot in sorted(wanted.hosts.items())
        if applied.hosts.get(host) != slot
    ]
    woken = [WakeUp(slot) for slot in sorted(applied.asleep - wanted.asleep)]
    slept = [FallAsleep(slot) for slot in sorted(wanted.asleep - applied.asleep)]
    return (*drops, *replaced, *added, *raised, *lowered, *woken, *hosts, *removed, *slept)


def fits(applied: Plane, wanted: Plane) -> bool:
    """Whether run-time operations are enough: every slot in use is declared in the running HAProxy."""
    used = max((*wanted.servers, *wanted.hosts.values(), *wanted.asleep), default=-1)
    return used < applied.slots and wanted.slots <= applied.slots
