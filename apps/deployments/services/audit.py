"""What must hold in the database whoever writes it, as code.

Each invariant is one function that asks by one statement, so that what it compares is of one moment, and returns what
violates it. Nothing here changes anything: audit_repair does, and the engines and ZooKeeper are reconcile.audit's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.db.models import Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from apps.deployments.models import Instance
from apps.hosts.models import Allocation, Host, PortAllocation
from apps.tenants.models import Quota, Tenant

CLAIMED = PortAllocation.Status.CLAIMED
#: An allocation or a port whose instance may hold it.
_OWNED = Exists(Instance.objects.filter(uid=OuterRef("owner"), released=False))


@dataclass(frozen=True, slots=True)
class Violation:
    """``subject`` says whose it is, and with ``code`` tells one violation from another. ``pk`` is its row's.

    ``repairable``: audit_repair mends it. ``warning``: it may be what an admin wanted.
    """

    code: str
    subject: str
    message: str
    repairable: bool = False
    warning: bool = False
    pk: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.code, self.subject


def _of_host(rows: QuerySet[Allocation] | QuerySet[PortAllocation], aggregate: Sum | Count) -> Coalesce:
    """An aggregate over the rows of the outer query's host; 0 without any."""
    grouped = rows.filter(host_id=OuterRef("pk")).order_by().values("host_id").annotate(value=aggregate)
    return Coalesce(Subquery(grouped.values("value"), output_field=IntegerField()), 0)


def host_counters() -> list[Violation]:
    """A host's counters are the sums of its allocations."""
    rows = (
        Host.objects.annotate(
            memory=_of_host(Allocation.objects.all(), Sum("memory_mb")),
            cpu=_of_host(Allocation.objects.all(), Sum("cpu_millis")),
        )
        .exclude(memory_mb_claimed=F("memory"), cpu_millis_claimed=F("cpu"))
        .values_list("pk", "name", "memory_mb_claimed", "cpu_millis_claimed", "memory", "cpu")
    )
    return [
        Violation(
            "host.counters",
            f"host {name} ({pk})",
            f"counts {memory} MiB and {cpu} mCPU as claimed; its allocations are {memory_sum} MiB and {cpu_sum} mCPU",
            repairable=True,
            pk=pk,
        )
        for pk, name, memory, cpu, memory_sum, cpu_sum in rows
    ]


def host_ports_held() -> list[Violation]:
    """A host counts the ports that are claimed or in quarantine."""
    rows = (
        Host.objects.annotate(ports_there=_of_host(PortAllocation.objects.all(), Count("pk")))
        .exclude(ports_held=F("ports_there"))
        .values_list("pk", "name", "ports_held", "ports_there")
    )
    return [
        Violation("host.ports_held", f"host {name} ({pk})", f"counts {held} ports held; there are {there}", True, pk=pk)
        for pk, name, held, there in rows
    ]


def host_above_capacity() -> list[Violation]:
    """More is claimed than may be: a warning, as an admin may have lowered a ratio or raised a reserve."""
    above = Q(memory_mb_claimed__gt=F("memory_mb_capacity")) | Q(cpu_millis_claimed__gt=F("cpu_millis_capacity"))
    columns = ("memory_mb_claimed", "memory_mb_capacity", "cpu_millis_claimed", "cpu_millis_capacity")
    return [
        Violation(
            "host.above_capacity",
            f"host {name} ({pk})",
            f"{memory} of {memory_capacity} MiB and {cpu} of {cpu_capacity} mCPU are claimed",
            warning=True,
            pk=pk,
        )
        for pk, name, memory, memory_capacity, cpu, cpu_capacity in Host.objects.filter(above).values_list(
            "pk", "name", *columns
        )
    ]


def host_ratios() -> list[Violation]:
    """A host has its cluster's overcommit ratios; its capacity is computed from them."""
    rows = (
        Host.objects.exclude(status=Host.Status.REMOVED)
        .exclude(memory_overcommit=F("cluster__memory_overcommit"), cpu_overcommit=F("cluster__cpu_overcommit"))
        .values_list(
            "pk",
            "name",
            "memory_overcommit",
            "cpu_overcommit",
            "cluster__memory_overcommit",
            "cluster__cpu_overcommit",
        )
    )
    return [
        Violation(
            "host.ratios",
            f"host {name} ({pk})",
            f"promises {memory}% of its memory and {cpu}% of its CPU; its cluster says {memory_set}% and {cpu_set}%",
            repairable=True,
            pk=pk,
        )
        for pk, name, memory, cpu, memory_set, cpu_set in rows
    ]


def quota_counters() -> list[Violation]:
    """What a quota counts as used are the sums over the tenant's allocations."""

    def used(column: str) -> Subquery:
        return Subquery(Quota.objects.filter(tenant_id=OuterRef("tenant_id")).values(column)[:1])

    # Grouped from the allocations' side: that is one pass over them, however many tenants there are.
    rows = (
        Allocation.objects.order_by()
        .values("tenant_id")
        .annotate(memory=Sum("memory_mb"), cpu=Sum("cpu_millis"), number=Count("pk"))
        .annotate(memory_used=used("memory_mb_used"), cpu_used=used("cpu_millis_used"), used=used("instances_used"))
        .exclude(memory=F("memory_used"), cpu=F("cpu_used"), number=F("used"))
        .values_list("tenant_id", "memory", "cpu", "number", "memory_used", "cpu_used", "used")
    )
    idle = (
        Quota.objects.exclude(memory_mb_used=0, cpu_millis_used=0, instances_used=0)
        .filter(~Exists(Allocation.objects.filter(tenant_id=OuterRef("tenant_id"))))
        .values_list("tenant_id", "memory_mb_used", "cpu_millis_used", "instances_used")
    )
    found = [*rows, *((pk, 0, 0, 0, *counted) for pk, *counted in idle)]
    names = dict(Tenant.objects.filter(pk__in=[row[0] for row in found]).values_list("pk", "slug"))
    return [
        Violation(
            "quota.counters",
            f"tenant {names.get(pk, '?')} ({pk})",
            f"its quota counts {memory_used} MiB, {cpu_used} mCPU, {number_used} instances as used; its allocations "
            f"are {memory} MiB, {cpu} mCPU, {number}",
            repairable=pk in names,
            pk=pk,
        )
        for pk, memory, cpu, number, memory_used, cpu_used, number_used in found
    ]


def quota_above_limit() -> list[Violation]:
    """A tenant holds more than its quota: a warning, as an admin may lower it, and moves go beyond it for a while."""
    above = (
        Q(memory_mb_used__gt=F("memory_mb"))
        | Q(cpu_millis_used__gt=F("cpu_millis"))
        | Q(instances_used__gt=F("instances"))
    )
    return [
        Violation(
            "quota.above_limit",
            f"tenant {one.tenant.slug} ({one.tenant_id})",
            f"uses {one.memory_mb_used} of {one.memory_mb} MiB, {one.cpu_millis_used} of {one.cpu_millis} mCPU, "
            f"{one.instances_used} of {one.instances} instances",
            warning=True,
            pk=one.tenant_id,
        )
        for one in Quota.objects.filter(above).select_related("tenant")
    ]


def _unreleased() -> QuerySet[Instance]:
    return Instance.objects.filter(released=False).order_by("pk")


def _told(rows: QuerySet[Instance], code: str, message: str) -> list[Violation]:
    return [
        Violation(code, f"instance {uid.hex[:12]} ({pk})", message.format(status=status, host=host, port=port), pk=pk)
        for pk, uid, status, host, port in rows.values_list("pk", "uid", "status", "host__name", "port")
    ]


def instance_without_allocation() -> list[Violation]:
    rows = _unreleased().filter(~Exists(Allocation.objects.filter(owner=OuterRef("uid"))))
    return _told(rows, "instance.no_allocation", "is {status} on {host} and has no allocation")


def instance_allocation_differs() -> list[Violation]:
    """An instance's allocation is on its own host and is what its release asks for."""
    same = Q(
        host_id=OuterRef("host_id"),
        tenant_id=OuterRef("app__tenant_id"),
        memory_mb=OuterRef("replica_set__release__memory_mb"),
        cpu_millis=OuterRef("replica_set__release__cpu_millis"),
    )
    rows = _unreleased().filter(Exists(Allocation.objects.filter(~same, owner=OuterRef("uid"))))
    message = "is {status} on {host}; its allocation is of another host, tenant or size"
    return _told(rows, "instance.allocation_differs", message)


def instance_without_port() -> list[Violation]:
    own = PortAllocation.objects.filter(
        owner=OuterRef("uid"), status=CLAIMED, host_id=OuterRef("host_id"), port=OuterRef("port")
    )
    rows = _unreleased().filter(~Exists(own))
    return _told(rows, "instance.no_port", "is {status} on {host} and has not claimed its port {port} there")


def instance_port_differs() -> list[Violation]:
    """An instance claims no port but its own."""
    own = Q(host_id=OuterRef("host_id"), port=OuterRef("port"))
    other = PortAllocation.objects.filter(~own, owner=OuterRef("uid"), status=CLAIMED)
    rows = _unreleased().filter(Exists(other))
    return _told(rows, "instance.port_differs", "is {status} on {host} with port {port}, and claims another as well")


def allocation_without_instance() -> list[Violation]:
    rows = Allocation.objects.filter(~_OWNED).order_by("pk")
    return [
        Violation(
            "allocation.orphan",
            f"allocation {pk}",
            f"holds {memory} MiB and {cpu} mCPU of {host} for {owner}, which is no instance or was released",
            repairable=True,
            pk=pk,
        )
        for pk, memory, cpu, host, owner in rows.values_list("pk", "memory_mb", "cpu_millis", "host__name", "owner")
    ]


def port_without_instance() -> list[Violation]:
    rows = PortAllocation.objects.filter(~_OWNED, status=CLAIMED).order_by("pk")
    return [
        Violation(
            "port.orphan",
            f"port {host}:{port} ({pk})",
            f"is claimed for {owner}, which is no instance or was released",
            repairable=True,
            pk=pk,
        )
        for pk, host, port, owner in rows.values_list("pk", "host__name", "port", "owner")
    ]


INVARIANTS: tuple[Callable[[], list[Violation]], ...] = (
    host_counters,
    host_ports_held,
    host_above_capacity,
    host_ratios,
    quota_counters,
    quota_above_limit,
    instance_without_allocation,
    instance_allocation_differs,
    instance_without_port,
    instance_port_differs,
    allocation_without_instance,
    port_without_instance,
)


def database_violations() -> list[Violation]:
    """What doesn't hold right now. Costs a dozen statements, whatever the size of the platform."""
    return [one for invariant in INVARIANTS for one in invariant()]
