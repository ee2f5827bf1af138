"""Releases, and the replica sets that run them."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from apps.core.crypto import EncryptedJSONField
from apps.deployments.models.apps import App
from apps.registry.models import Version


class Release(models.Model):
    """An immutable snapshot of all that decides how an app runs. Memory is MiB, CPU thousandths of a core."""

    class OnFailure(models.TextChoices):
        RESTART = "restart", "restart in place"
        REPLACE = "replace", "replace, perhaps elsewhere"
        REMOVE = "remove", "remove"
        REPORT = "report", "only report"

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="releases")
    number = models.PositiveIntegerField()
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="releases")
    env = EncryptedJSONField(default=dict)
    command = models.JSONField(default=list, blank=True)
    container_port = models.PositiveIntegerField(default=8080)
    memory_mb = models.PositiveIntegerField(default=256)
    cpu_millis = models.PositiveIntegerField(default=100)
    # Names of those env values that members may read (settings); the values of the others (secrets) are never shown.
    env_readable = models.JSONField(default=list, db_default=[], blank=True)
    health_path = models.CharField(max_length=200, blank=True, help_text="empty: a TCP connect is enough")
    # Over the defaults of apps.deployments.checks: ready for traffic, and alive. Without liveness, readiness is both.
    readiness = models.JSONField(default=dict, db_default={}, blank=True)
    liveness = models.JSONField(default=dict, db_default={}, blank=True)
    on_failure = models.CharField(
        max_length=8,
        choices=OnFailure,
        default=OnFailure.REPLACE,
        db_default=OnFailure.REPLACE,
        help_text="what is done with an instance that is not alive any more",
    )
    stop_signal = models.CharField(max_length=12, default="SIGTERM", db_default="SIGTERM")
    stop_grace_s = models.PositiveIntegerField(default=10)
    placement = models.JSONField(
        default=dict, db_default={}, blank=True, help_text="rules; apps.deployments.services.rules says what they are"
    )
    is_global = models.BooleanField(default=False, db_default=False, help_text="one instance on every matching host")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("-number",)
        constraints = (
            models.UniqueConstraint(fields=["app", "number"], name="release_number_once"),
            models.CheckConstraint(
                condition=Q(container_port__gte=1, container_port__lte=65535), name="release_port_is_a_port"
            ),
            models.CheckConstraint(condition=Q(memory_mb__gte=16, cpu_millis__gte=10), name="release_resources_sane"),
        )

    def __str__(self) -> str:
        return f"{self.app} release {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("a release is immutable: make a new one")
        super().save(*args, **kwargs)

    @property
    def secrets(self) -> list[str]:
        """Values of env to be hidden. Not those that members may read: that would hide half of an ordinary log."""
        return [str(value) for name, value in self.env.items() if name not in self.env_readable]


class ReplicaSet(models.Model):
    """How many instances of a release are wanted, and its share of the app's traffic in per cent."""

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="replica_sets")
    release = models.OneToOneField(Release, on_delete=models.CASCADE, related_name="replica_set")
    wanted = models.PositiveIntegerField(default=0)
    weight = models.PositiveIntegerField(default=0, validators=[MinValueValidator(0), MaxValueValidator(100)])
    retry_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="missing instances are not placed before"
    )

    retiring_until = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="given up, it serves on beside the app's other set until that one is complete, but not longer",
    )

    class Meta:
        ordering = ("-id",)
        constraints = (models.CheckConstraint(condition=Q(weight__lte=100), name="replica_set_weight_is_a_share"),)
        indexes = (
            models.Index(fields=["app"], condition=Q(wanted__gt=0), name="replica_set_wanted"),
            models.Index(fields=["app"], condition=Q(retiring_until__isnull=False), name="replica_set_retiring"),
        )

    def __str__(self) -> str:
        return f"{self.wanted} of {self.release}"
