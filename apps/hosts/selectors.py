"""Hosts as placement and the workers see them. Hosts belong to the platform: tenants have no viewer here."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import F, QuerySet

from apps.core import compiled
from apps.core.errors import Missing, PlatformError
from apps.hosts.models import Cluster, Host, PortAllocation
from apps.hosts.samples import sampled_lately


class NoCluster(PlatformError):
    code = "hosts.no_cluster"


class HostMissing(Missing):
    code = "hosts.not_found"


def default_cluster() -> Cluster:
    """Raises NoCluster where the operators have not made one."""
    cluster = Cluster.objects.filter(is_default=True).first()
    if cluster is None:
        raise NoCluster("There is no default cluster yet. An admin makes one under Hosts in the admin.")
    return cluster


def hosts_of(cluster_id: int) -> QuerySet[Host]:
    return Host.objects.filter(cluster_id=cluster_id).exclude(status=Host.Status.REMOVED)


def hosts_to_observe() -> QuerySet[Host]:
    """Every host whose containers may matter, whatever its status."""
    return Host.objects.exclude(status=Host.Status.REMOVED).select_related("cluster").order_by("pk")


def hosts_low_on_disk(percent: int) -> list[int]:
    """Those that said lately that less of their disk is free, in per cent."""
    low = hosts_to_observe().filter(sampled_lately(), disk_mb__gt=0, disk_mb_idle__lt=F("disk_mb") * percent / 100.0)
    return list(low.values_list("pk", flat=True))


def host_with_engine(pk: int) -> Host:
    found = compiled.objects(_to_observe, {"pk": pk})
    if not found:
        raise HostMissing(f"There is no host {pk}.")
    return found[0]


def _to_observe(*, pk: int) -> QuerySet[Host]:
    return hosts_to_observe().filter(pk=pk)


def ports_taken(host_ids: Iterable[int]) -> dict[int, set[int]]:
    """Host id -> TCP ports that are claimed or in quarantine."""
    taken: dict[int, set[int]] = {pk: set() for pk in host_ids}
    rows = PortAllocation.objects.filter(host_id__in=taken, protocol="tcp").values_list("host_id", "port")
    for host_id, port in rows:
        taken[host_id].add(port)
    return taken


def port_of(owner: UUID) -> int | None:
    rows = PortAllocation.objects.filter(owner=owner, status=PortAllocation.Status.CLAIMED)
    return rows.values_list("port", flat=True).first()


def quarantined_ports() -> QuerySet[PortAllocation]:
    """Those that have rested longest first."""
    return PortAllocation.objects.filter(status=PortAllocation.Status.QUARANTINED).order_by("freed_at")
