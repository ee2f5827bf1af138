"""From the apps that are wanted, and what was before, to slots, owners of names and a wanted plane. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway import diff, slots, tables
from gateway.model import TCP_FIRST, AppState, Plane

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
