"""From the apps that are wanted, and what was before, to slots, owners of names and a wanted plane. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from gateway import diff, slots, tables
from gateway.contract import Route
from gateway.model import TCP_FIRST, AppState, Plane, Server

#: Backends of TCP beyond those in use: fewer apps have them.
TCP_SPARE = 8


@dataclass(frozen=True, slots=True)
class Before:
    """``busy``: slots that hold servers. ``declared`` and ``declared_tcp``: how many the running HAProxy has."""

    slots: Mapping[str, int]
    owners: Mapping[str, str]
    busy: Collection[int]
    declared: int
    declared_tcp: int


@dataclass(frozen=True, slots=True)
class Planned:
    slots: dict[str, int]
    owners: dict[str, str]
    plane: Plane


@dataclass(frozen=True, slots=True)
class Patch:
    """A plane that differs from the one before in the servers of these slots alone."""

    plane: Plane
    slots: frozenset[int]


def patch(
    target: Plane,
    apps: Mapping[str, AppState],
    slots_: Mapping[str, int],
    changed: Collection[str],
    memory: diff.Memory,
) -> Patch | None:
    """The plane after changes of instances and their shares, which are most changes: in time that goes by those, and
    not by the number of apps. None where more than that changed, and everything is to be planned anew.
    """
    found: dict[str, tuple[AppState, dict[str, Server]]] = {}
    for app in changed:
        state, known = apps[app], memory.servers.get(app)
        if known is None or app not in slots_ or not _alike(known[0].route, state.route):
            return None
        found[app] = state, diff.servers_of(state)
    memory.servers.update(found)
    servers = dict(target.servers)
    for app, (_, mine) in found.items():
        if mine:
            servers[slots_[app]] = mine
        else:
            servers.pop(slots_[app], None)
    return Patch(replace(target, servers=servers), frozenset(slots_[app] for app in found))


def _alike(old: Route, new: Route) -> bool:
    """Whether all that tables are made of is the same, and does not depend on what servers there are."""
    if new.policy.asleep or new.policy.testers:
        return False
    return replace(old, revision=new.revision, weights=new.weights, groups=new.groups) == new


def plan(
    apps: Mapping[str, AppState], before: Before, *, spare: int, expected: int, memory: diff.Memory | None = None
) -> Planned:
    """``expected``: how many apps are known to come. ``memory``: of the last plan, for the next one."""
    tcp = {app for app, state in apps.items() if state.route.protocol == "tcp"}
    http = apps.keys() - tcp
    testers = {f"{app}{tables.TESTERS}" for app in http if apps[app].route.policy.testers}
    of_http = slots.assign(http | testers, before.slots, before.busy)
    of_tcp = slots.assign(tcp, before.slots, before.busy, TCP_FIRST)
    declared = slots.capacity(of_http, before.declared, spare, expected)
    from_zero = {app: slot - TCP_FIRST for app, slot in of_tcp.items()}
    declared_tcp = slots.capacity(from_zero, before.declared_tcp, min(spare, TCP_SPARE))
    assigned = {**of_http, **of_tcp}
    owned = tables.owners(apps, before.owners)
    return Planned(assigned, owned, diff.wanted_plane(apps, assigned, owned, declared, declared_tcp, memory))
