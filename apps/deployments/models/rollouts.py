"""Rollouts: what moves an app from one release to another."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.deployments.models.apps import App
from apps.deployments.models.releases import ReplicaSet


class Rollout(models.Model):
    """One attempt to move an app to a release; or, with no ``target``, to nothing (undeploy).

    A pending one waits in the app's queue; of the others one at a time is open. Times are seconds.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        PROGRESSING = "progressing"
        PAUSED = "paused"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"
        ROLLED_BACK = "rolled_back"
        SUPERSEDED = "superseded"

    class Kind(models.TextChoices):
        DEPLOY = "deploy"
        ROLLBACK = "rollback"
        UNDEPLOY = "undeploy"

    class Strategy(models.TextChoices):
        ROLLING = "rolling"
        BLUE_GREEN = "blue_green", "blue-green"
        CANARY = "canary"
        IN_PLACE = "in_place", "in place"

    class Phase(models.TextChoices):
        """Where an open rollout is; each has a deadline."""

        MOVING = "moving", "bringing up the new version"
        JUDGING = "judging", "comparing the new version with the old one"
        KEEPING = "keeping", "keeping the old version for a switch back"
        ENDING = "ending", "taking the old version down"

    #: Being carried out.
    ACTIVE = (Status.PROGRESSING, Status.PAUSED)
    OPEN = (Status.PENDING, *ACTIVE)

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="rollouts")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.DEPLOY, db_default=Kind.DEPLOY)
    target = models.ForeignKey(ReplicaSet, null=True, blank=True, on_delete=models.CASCADE, related_name="rollouts")
    instances = models.PositiveIntegerField(default=0)
    # What serves when it begins, and how many of it: what a way back restores.
    source = models.ForeignKey(ReplicaSet, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    source_instances = models.PositiveIntegerField(default=0, db_default=0)
    strategy = models.CharField(max_length=10, choices=Strategy, default=Strategy.ROLLING, db_default=Strategy.ROLLING)
    max_surge = models.PositiveIntegerField(default=1, db_default=1, help_text="so many more than wanted at a time")
    max_unavailable = models.PositiveIntegerField(default=0, db_default=0, help_text="so many fewer at a time")
    steps = models.JSONField(
        default=list, db_default=[], blank=True, help_text="canary: weight in per cent, pause_s (null: until continued)"
    )
    keep_s = models.PositiveIntegerField(default=0, db_default=0, help_text="blue-green: how long the old one is kept")
    judge_s = models.PositiveIntegerField(default=0, db_default=0, help_text="how long the two are compared at most")
    status = models.CharField(max_length=12, choices=Status, default=Status.PENDING)
    phase = models.CharField(max_length=8, choices=Phase, default=Phase.MOVING, db_default=Phase.MOVING)
    step = models.PositiveIntegerField(default=0, db_default=0, help_text="canary: the step that it is at")
    code = models.CharField(max_length=64, blank=True, help_text="why it ended, for programs")
    reason = models.TextField(blank=True, help_text="why it ended, for people")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150, blank=True)
    began_at = models.DateTimeField(null=True, blank=True, help_text="when it left the queue")
    phase_since = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(help_text="when it is given up unless it gets on")
    switched_route = models.PositiveBigIntegerField(
        null=True, blank=True, editable=False, help_text="App.route_wanted that gave the target its share of traffic"
    )
    # What took how long, why it was judged as it was, and what the gateways saw meanwhile.
    timeline = models.JSONField(default=list, db_default=[], blank=True)
    evidence = models.JSONField(default=dict, db_default={}, blank=True)
    report = models.JSONField(default=dict, db_default={}, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-number",)
        constraints = (
            models.UniqueConstraint(fields=["app", "number"], name="rollout_number_once"),
            # One at a time: the database itself refuses a second. Any number may wait.
            models.UniqueConstraint(
                fields=["app"], condition=Q(status__in=["progressing", "paused"]), name="rollout_one_active_per_app"
            ),
        )
        indexes = (
            # The sweep, and an app's queue.
            models.Index(
                fields=["app", "number"],
                condition=Q(status__in=["pending", "progressing", "paused"]),
                name="rollout_open",
            ),
        )

    def __str__(self) -> str:
        return f"rollout {self.number} of {self.app}"
