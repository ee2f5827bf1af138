"""What is claimed on a host. ``owner`` is the uid of an instance: hosts know nothing of deployments."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.hosts.models.hosts import Host


class Allocation(models.Model):
    """Memory (MiB) and CPU (thousandths of a core) of one instance on one host."""

    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="allocations")
    owner = models.UUIDField(unique=True)
    tenant_id = models.BigIntegerField()
    memory_mb = models.PositiveIntegerField()
    cpu_millis = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.memory_mb} MiB of {self.host_id} for {self.owner}"


class PortAllocation(models.Model):
    """One port of one host: claimed, or freed and in quarantine.

    A freed port stays in quarantine until every live gateway has acknowledged ZooKeeper transaction ``zxid`` of
    ``epoch``, the one that took its route away: a stale route would hand one tenant's users to another.
    """

    class Status(models.TextChoices):
        CLAIMED = "claimed"
        QUARANTINED = "quarantined"

    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="ports")
    port = models.PositiveIntegerField()
    protocol = models.CharField(max_length=3, default="tcp")
    status = models.CharField(max_length=12, choices=Status, default=Status.CLAIMED)
    owner = models.UUIDField()
    epoch = models.CharField(max_length=36, blank=True)
    zxid = models.BigIntegerField(default=0)
    freed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["host", "port", "protocol"], name="port_once_per_host"),
            models.CheckConstraint(condition=Q(port__gte=1, port__lte=65535), name="port_is_a_port"),
        )
        indexes = (
            models.Index(fields=["owner"]),  # freeing an instance's port
            models.Index(fields=["status", "freed_at"]),  # the sweep that ends quarantines
        )

    def __str__(self) -> str:
        return f"{self.host_id}:{self.port}/{self.protocol} {self.status}"
