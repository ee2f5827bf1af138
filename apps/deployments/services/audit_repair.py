"""Mending what the audit finds in the database, where that is safe. Each repair is one transaction.

Rows are locked in everybody's order, quota, then hosts by id, then ports, and only then counted: whoever changes a
counter holds its row until what it counts is committed, so that under the lock the sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import transaction
from django.db.models import Count, F, Sum

from apps.core import events
from apps.core.clock import now
from apps.deployments.models import App, Instance
from apps.deployments.services.audit import Violation
from apps.hosts.models import Allocation, Host, PortAllocation
from apps.hosts.services.claims import free, hosts_locked
from apps.tenants.models import Quota
from apps.tenants.services.tenants import quota_release

CLAIMED = PortAllocation.Status.CLAIMED


def _quota_recount(tenant_id: int) -> None:
    if Quota.objects.select_for_update(no_key=True).filter(tenant_id=tenant_id).first() is None:
        return
    rows = Allocation.objects.filter(tenant_id=tenant_id)
    sums = rows.aggregate(memory=Sum("memory_mb"), cpu=Sum("cpu_millis"), number=Count("pk"))
    Quota.objects.filter(tenant_id=tenant_id).update(
        memory_mb_used=sums["memory"] or 0, cpu_millis_used=sums["cpu"] or 0, instances_used=sums["number"]
    )


def _hosts_recount(*host_ids: int) -> None:
    hosts_locked(host_ids, ["pk"])
    for pk in sorted(host_ids):
        sums = Allocation.objects.filter(host_id=pk).aggregate(memory=Sum("memory_mb"), cpu=Sum("cpu_millis"))
        Host.objects.filter(pk=pk).update(
            generation=F("generation") + 1,
            memory_mb_claimed=sums["memory"] or 0,
            cpu_millis_claimed=sums["cpu"] or 0,
            ports_held=PortAllocation.objects.filter(host_id=pk).count(),
        )


@transaction.atomic
def host_recount(*, pk: int) -> None:
    """Set a host's counters to what its allocations and ports are."""
    _hosts_recount(pk)


@transaction.atomic
def host_ratios_copy(*, pk: int) -> None:
    """Give a host its cluster's ratios."""
    hosts_locked([pk], ["pk"])
    cluster = Host.objects.select_related("cluster").get(pk=pk).cluster
    Host.objects.filter(pk=pk).update(
        generation=F("generation") + 1,
        memory_overcommit=cluster.memory_overcommit,
        cpu_overcommit=cluster.cpu_overcommit,
    )


@transaction.atomic
def quota_recount(*, pk: int) -> None:
    """Set what the tenant ``pk`` uses to what its allocations are."""
    _quota_recount(pk)


@transaction.atomic
def allocation_free(*, pk: int) -> None:
    """Free what is held for nobody, its port into quarantine. Leaves one alone that has an instance after all."""
    found = Allocation.objects.filter(pk=pk).first()
    if found is None:
        return
    # First the counters, whatever they said: else what is given back now could take them below nothing.
    _quota_recount(found.tenant_id)
    _hosts_recount(found.host_id)
    allocation = Allocation.objects.filter(pk=pk, tenant_id=found.tenant_id, host_id=found.host_id).first()
    if allocation is None or Instance.objects.filter(uid=allocation.owner, released=False).exists():
        return
    quota_release(
        tenant_id=allocation.tenant_id,
        memory_mb=allocation.memory_mb,
        cpu_millis=allocation.cpu_millis,
        instances=1,
    )
    epoch, zxid = _unrouted(allocation)
    free(allocation=allocation, epoch=epoch, zxid=zxid)


@transaction.atomic
def port_quarantine(*, pk: int) -> None:
    """Let a port that is claimed for nobody rest like any freed one."""
    found = PortAllocation.objects.filter(pk=pk, status=CLAIMED).first()
    if found is None:
        return
    hosts_locked([found.host_id], ["pk"])
    if Instance.objects.filter(uid=found.owner, released=False).exists():
        return
    epoch, zxid = _unrouted(found)
    rows = PortAllocation.objects.filter(pk=pk, owner=found.owner, status=CLAIMED)
    rows.update(status=PortAllocation.Status.QUARANTINED, epoch=epoch, zxid=zxid, freed_at=now())


def _unrouted(held: Allocation | PortAllocation) -> tuple[str, int]:
    """The ZooKeeper transaction that gateways must have served before the port is anybody else's.

    Where its instance doesn't say, the latest that was published at all, and never none: a port with none is given
    out again at once, and a gateway may know it still.
    """
    instance = Instance.objects.filter(uid=held.owner).first()
    if instance is not None and (instance.unrouted_zxid or not instance.was_routed):
        return instance.unrouted_epoch, instance.unrouted_zxid
    latest = App.objects.filter(route_zxid__gt=0).order_by("-route_zxid").values_list("route_epoch", "route_zxid")
    return latest.first() or ("", 1)


_REPAIRS: dict[str, Callable[..., None]] = {
    "host.counters": host_recount,
    "host.ports_held": host_recount,
    "host.ratios": host_ratios_copy,
    "quota.counters": quota_recount,
    "allocation.orphan": allocation_free,
    "port.orphan": port_quarantine,
}


def violations_repair(violations: Sequence[Violation]) -> list[Violation]:
    """Mend those that are repairable, each by itself. Returns them."""
    done = []
    for one in violations:
        if not one.repairable or one.code not in _REPAIRS:
            continue
        with transaction.atomic():
            _REPAIRS[one.code](pk=one.pk)
            events.record(
                "audit.repaired",
                f"The audit mended {one.code} of {one.subject}: {one.message}.",
                level="warning",
                violation=one.code,
            )
        done.append(one)
    return done
