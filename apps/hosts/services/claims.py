"""Claiming and freeing on hosts. Each call is part of the caller's transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.db.models import Case, F, IntegerField, Q, QuerySet, Value, When

from apps.core import compiled
from apps.core.clock import now
from apps.hosts.models import Allocation, Cluster, Host, PortAllocation


class Contended(Exception):
    """Somebody else changed the host since it was read: roll back, read again, retry."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one instance takes of one host."""

    owner: UUID
    tenant_id: int
    host_id: int
    memory_mb: int
    cpu_millis: int
    port: int


def hosts_locked(host_ids: Iterable[int], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """These hosts' rows as they are now, locked until the transaction ends.

    In the order of their ids, so that two placements can't wait for each other's rows in a ring. Without the key:
    other transactions may go on referring to the host.
    """
    rows = Host.objects.filter(pk__in=host_ids).order_by("pk").select_for_update(no_key=True)
    return list(rows.values_list(*columns))


def cluster_queue(*, cluster_id: int) -> None:
    """Wait until no other placement of the cluster that lost its races is under way; ends with the transaction."""
    Cluster.objects.select_for_update(no_key=True).only("pk").get(pk=cluster_id)


def claim(*, claims: Sequence[Claim]) -> None:
    """Take, for one tenant, from the hosts, on the condition that they have that much left, and write down who has it.

    Where the caller holds the hosts' locks this holds at the first try; else the conditions decide. The hosts are
    locked as late as can be.
    Raises Contended; nothing is half done once the caller rolls back.
    """
    compiled.insert(
        [
            Allocation(
                host_id=item.host_id,
                owner=item.owner,
                tenant_id=item.tenant_id,
                memory_mb=item.memory_mb,
                cpu_millis=item.cpu_millis,
            )
            for item in claims
        ]
    )
    ports = [PortAllocation(host_id=item.host_id, owner=item.owner, port=item.port) for item in claims]
    # Hosts before their ports, as those do who lock the hosts to choose ports: the other way round one that holds a
    # port and wants the host, and one that holds the host and wants that port, would wait for each other.
    if len(claims) == 1:
        _take_one(claims[0])
    else:
        _take_many(claims)
    try:
        compiled.insert(ports)
    except IntegrityError:
        raise Contended from None


def _take_one(item: Claim) -> None:
    values = {
        "pk": item.host_id,
        "tenant_id": item.tenant_id,
        "memory_mb": item.memory_mb,
        "cpu_millis": item.cpu_millis,
        "port_next": item.port + 1,
    }
    if not compiled.update(_swap, values):
        raise Contended


def _take_many(claims: Sequence[Claim]) -> None:
    by_host: dict[int, list[Claim]] = defaultdict(list)
    for item in claims:
        by_host[item.host_id].append(item)
    # An update of many rows locks them in no order that one can rely on.
    hosts_locked(by_host, ("pk",))
    # Hosts that take the same go in one statement; of replicas of one app all but a few do.
    groups: dict[tuple[int, int, int, int], list[int]] = defaultdict(list)
    for host_id, items in by_host.items():
        taken = (
            items[0].tenant_id,
            sum(one.memory_mb for one in items),
            sum(one.cpu_millis for one in items),
            len(items),
        )
        groups[taken].append(host_id)
    for (tenant_id, memory_mb, cpu_millis, count), host_ids in groups.items():
        pointers = [(host_id, by_host[host_id][-1].port + 1) for host_id in host_ids]
        rows, changes = _take(Host.objects.filter(pk__in=host_ids), tenant_id, memory_mb, cpu_millis, count)
        if rows.update(**changes, port_next=_by_host(pointers)) != len(host_ids):
            raise Contended


def _take(
    rows: QuerySet[Host], tenant_id: int, memory_mb: int, cpu_millis: int, count: int
) -> tuple[QuerySet[Host], dict[str, Any]]:
    """Those of the hosts that have so much left for this tenant, and what changes when it is taken."""
    left = rows.filter(
        Q(dedicated_to=None) | Q(dedicated_to=tenant_id),
        status=Host.Status.READY,
        availability=Host.Availability.ACTIVE,
        disk_pressure=False,
        memory_mb_free__gte=memory_mb,
        cpu_millis_capacity__gte=F("cpu_millis_claimed") + cpu_millis,
    )
    return left, {
        "generation": F("generation") + 1,
        "memory_mb_claimed": F("memory_mb_claimed") + memory_mb,
        "cpu_millis_claimed": F("cpu_millis_claimed") + cpu_millis,
        "ports_held": F("ports_held") + count,
    }


def _swap(
    *, pk: int, tenant_id: int, memory_mb: int, cpu_millis: int, port_next: int
) -> tuple[QuerySet[Host], dict[str, Any]]:
    rows, changes = _take(Host.objects.filter(pk=pk), tenant_id, memory_mb, cpu_millis, 1)
    return rows, {**changes, "port_next": Value(port_next)}


def _by_host(values: list[tuple[int, int]]) -> Case | Value:
    if len(values) == 1:
        return Value(values[0][1])
    return Case(*(When(pk=pk, then=Value(value)) for pk, value in values), output_field=IntegerField())


def held_by(owner: UUID) -> Allocation | None:
    return Allocation.objects.filter(owner=owner).first()


def hand_over(*, allocation: Allocation, owner: UUID, memory_mb: int, cpu_millis: int) -> None:
    """What one owner holds of a host, its port too, is another's now, and becomes so large. Part of a transaction.

    Raises Contended where the host is not in service, or has no room for what is more than before.
    """
    more_memory, more_cpu = memory_mb - allocation.memory_mb, cpu_millis - allocation.cpu_millis
    host = Host.objects.filter(
        pk=allocation.host_id, status=Host.Status.READY, availability=Host.Availability.ACTIVE
    ).filter(
        Q(memory_mb_free__gte=more_memory) if more_memory > 0 else Q(),
        Q(cpu_millis_capacity__gte=F("cpu_millis_claimed") + more_cpu) if more_cpu > 0 else Q(),
    )
    changes = {
        "generation": F("generation") + 1,
        "memory_mb_claimed": F("memory_mb_claimed") + more_memory,
        "cpu_millis_claimed": F("cpu_millis_claimed") + more_cpu,
    }
    if not host.update(**changes):
        raise Contended
    ports = PortAllocation.objects.filter(owner=allocation.owner, status=PortAllocation.Status.CLAIMED)
    held = Allocation.objects.filter(pk=allocation.pk)
    if not ports.update(owner=owner) or not held.update(owner=owner, memory_mb=memory_mb, cpu_millis=cpu_millis):
        raise Contended


def free(*, allocation: Allocation, epoch: str, zxid: int) -> None:
    """Give back what an owner holds; its port goes into quarantine until gateways served ``zxid``.

    A second call does no harm. The tenant's quota is given back before this, never after: quota first, then
    hosts, is the order of every placement, and the other way round two transactions could wait in a ring.
    """
    if not Allocation.objects.filter(pk=allocation.pk).delete()[0]:
        return
    # The host before its port, as everywhere: a placer that guessed this port holds the host and waits for the port.
    Host.objects.filter(pk=allocation.host_id).update(
        generation=F("generation") + 1,
        memory_mb_claimed=F("memory_mb_claimed") - allocation.memory_mb,
        cpu_millis_claimed=F("cpu_millis_claimed") - allocation.cpu_millis,
    )
    PortAllocation.objects.filter(owner=allocation.owner, status=PortAllocation.Status.CLAIMED).update(
        status=PortAllocation.Status.QUARANTINED, epoch=epoch, zxid=zxid, freed_at=now()
    )


def quarantine_end(*, pks: Iterable[int]) -> int:
    """These ports may be given out again; part of the caller's transaction. Returns how many were freed."""
    rows = PortAllocation.objects.filter(pk__in=list(pks), status=PortAllocation.Status.QUARANTINED)
    # Locked by host and then by row, in one order: the host before its ports, as a placement takes them.
    hosts = sorted(set(rows.values_list("host_id", flat=True)))
    hosts_locked(hosts, ["pk"])
    freed = Counter(rows.values_list("host_id", flat=True))
    done = rows.delete()[0]
    for host_id in hosts:
        if freed[host_id]:
            Host.objects.filter(pk=host_id).update(ports_held=F("ports_held") - freed[host_id])
    return done
