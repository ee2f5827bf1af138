"""Claiming and freeing on a host. Each call is part of the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from apps.core.clock import now
from apps.hosts.models import Allocation, Host, PortAllocation


class Contended(Exception):
    """Somebody else changed the host since it was read: roll back, read again, retry."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one instance takes of one host as it was at ``generation``."""

    owner: UUID
    tenant_id: int
    memory_mb: int
    cpu_millis: int
    port: int


def claim(*, host_id: int, generation: int, claims: list[Claim]) -> None:
    """Insert all claims, then compare-and-swap the host's generation. Raises Contended; nothing is half done
    once the caller rolls back.
    """
    # By port, so that two placements which go round the end of a range can't wait for each other's in a ring.
    port_next = claims[-1].port + 1
    claims = sorted(claims, key=lambda item: item.port)
    Allocation.objects.bulk_create(
        Allocation(
            host_id=host_id,
            owner=item.owner,
            tenant_id=item.tenant_id,
            memory_mb=item.memory_mb,
            cpu_millis=item.cpu_millis,
        )
        for item in claims
    )
    try:
        with transaction.atomic():
            PortAllocation.objects.bulk_create(
                PortAllocation(host_id=host_id, owner=item.owner, port=item.port) for item in claims
            )
    except IntegrityError:
        raise Contended from None
    swapped = Host.objects.filter(pk=host_id, generation=generation, status=Host.Status.READY).update(
        generation=F("generation") + 1,
        memory_mb_claimed=F("memory_mb_claimed") + sum(item.memory_mb for item in claims),
        cpu_millis_claimed=F("cpu_millis_claimed") + sum(item.cpu_millis for item in claims),
        port_next=port_next,
    )
    if not swapped:
        raise Contended


def held_by(owner: UUID) -> Allocation | None:
    return Allocation.objects.filter(owner=owner).first()


def free(*, allocation: Allocation, epoch: str, zxid: int) -> None:
    """Give back what an owner holds; its port goes into quarantine until gateways served ``zxid``.

    A second call does no harm. The tenant's quota is given back before this, never after: quota first, then
    hosts, is the order of every placement, and the other way round two transactions could wait in a ring.
    """
    if not Allocation.objects.filter(pk=allocation.pk).delete()[0]:
        return
    PortAllocation.objects.filter(owner=allocation.owner, status=PortAllocation.Status.CLAIMED).update(
        status=PortAllocation.Status.QUARANTINED, epoch=epoch, zxid=zxid, freed_at=now()
    )
    Host.objects.filter(pk=allocation.host_id).update(
        generation=F("generation") + 1,
        memory_mb_claimed=F("memory_mb_claimed") - allocation.memory_mb,
        cpu_millis_claimed=F("cpu_millis_claimed") - allocation.cpu_millis,
    )


def quarantine_end(*, pks: list[int]) -> int:
    """These ports may be given out again. Returns how many were freed."""
    rows = PortAllocation.objects.filter(pk__in=pks, status=PortAllocation.Status.QUARANTINED)
    return rows.delete()[0]
