"""Instances: one container of a replica set on one host."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from apps.core.models import Leased
from apps.deployments.models.apps import App
from apps.deployments.models.releases import ReplicaSet
from apps.hosts.models import Host


class Instance(Leased):
    """Moves by compare-and-swap only. ``released`` says that nothing is held for it any more: no container, no
    route, no claim.
    """

    class Status(models.TextChoices):
        PLACED = "placed"
        STARTING = "starting"
        RUNNING = "running"
        HEALTHY = "healthy"
        UNHEALTHY = "unhealthy"
        DRAINING = "draining"
        STOPPED = "stopped"
        FAILED = "failed"
        LOST = "lost"

    #: Counts towards what its replica set wants.
    LIVE = (Status.PLACED, Status.STARTING, Status.RUNNING, Status.HEALTHY)
    #: Should have a running container on its host.
    WITH_CONTAINER = (Status.RUNNING, Status.HEALTHY)
    #: On its way out: unpublish, wait for the gateways, remove, free. Of a lost one nothing can be removed.
    LEAVING = (Status.DRAINING, Status.UNHEALTHY, Status.FAILED, Status.LOST)

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    app = models.ForeignKey(App, on_delete=models.PROTECT, related_name="instances")
    replica_set = models.ForeignKey(ReplicaSet, on_delete=models.PROTECT, related_name="instances")
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="instances")
    port = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=Status, default=Status.PLACED)
    status_since = models.DateTimeField(auto_now_add=True)
    deadline_at = models.DateTimeField(null=True, blank=True, help_text="when this status ends by itself")
    container_id = models.CharField(max_length=64, blank=True)
    failures = models.PositiveSmallIntegerField(default=0, help_text="failed readiness checks in a row")
    failing_since = models.DateTimeField(null=True, blank=True, help_text="when the first of them was")
    live_failures = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="failed liveness checks in a row, of a release that has one of its own"
    )
    last_check = models.TextField(blank=True, default="", db_default="", help_text="what the last failed check saw")
    restarts = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="in place, without a calm while")
    retry_at = models.DateTimeField(null=True, blank=True, help_text="it is not started (again) before")
    exit_code = models.IntegerField(null=True, blank=True)
    code = models.CharField(max_length=64, blank=True, help_text="why it ended, for programs")
    reason = models.TextField(blank=True, help_text="why it ended, for people")
    was_routed = models.BooleanField(default=False, help_text="has been ready, so gateways may know it")
    # The ZooKeeper transaction without it, from which on no gateway may route to it.
    unrouted_epoch = models.CharField(max_length=36, blank=True)
    unrouted_zxid = models.BigIntegerField(default=0)
    replaces = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="replacements",
        help_text="of a host that is being drained; it stops once this one is ready",
    )
    rebuild_as = models.ForeignKey(
        ReplicaSet,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="rebuilding",
        help_text="once it is gone, one of this set takes its place: its host, its port, its claim",
    )
    released = models.BooleanField(default=False)
    why = models.JSONField(
        default=dict, db_default={}, blank=True, help_text="what spoke for its host when it was placed"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # When it got how far: a rollout's report says what took how long.
    running_at = models.DateTimeField(null=True, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    leaving_at = models.DateTimeField(null=True, blank=True)
    unrouted_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            # An app's pass, its page, and each of its placements, which reads nothing but these columns.
            models.Index(
                fields=["app"], include=["host", "replica_set"], condition=Q(released=False), name="instance_of_app"
            ),
            models.Index(fields=["host", "status"], condition=Q(released=False), name="instance_on_host"),
            models.Index(fields=["status"], condition=Q(released=False), name="instance_unfinished"),
        )

    def __str__(self) -> str:
        return f"{self.app_id}/{self.short_id} {self.status}"

    @property
    def short_id(self) -> str:
        """What stands in the container's name."""
        return short_id_of(self.uid)


def short_id_of(uid: uuid.UUID) -> str:
    return uid.hex[:12]
