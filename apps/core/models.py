"""What every app may lean on: events, and the lease that long work holds."""

from __future__ import annotations

from django.db import models


class Event(models.Model):
    """What happened, when, why, and who asked. Append-only.

    Refers to its subjects by id and without foreign keys, so that it outlives them and costs them nothing.
    """

    class Level(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        ERROR = "error"

    at = models.DateTimeField(auto_now_add=True)
    level = models.CharField(max_length=8, choices=Level, default=Level.INFO)
    code = models.CharField(max_length=64)
    message = models.TextField()
    detail = models.JSONField(default=dict, blank=True)
    actor = models.CharField(max_length=150, blank=True, help_text="user name; empty for the platform")
    tenant_id = models.BigIntegerField(null=True, blank=True)
    app_id = models.BigIntegerField(null=True, blank=True)
    host_id = models.BigIntegerField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=["app_id", "-id"]),  # an app's page
            models.Index(fields=["tenant_id", "-id"]),  # a tenant's activity
            models.Index(fields=["host_id", "-id"]),  # a host's page in the admin
        )

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Leased(models.Model):
    """Work on the row is done by whoever holds its lease; see apps.core.leases."""

    lease_owner = models.CharField(max_length=36, blank=True, default="", editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


class Duty(Leased):
    """Something that is done again and again for the whole platform, by one worker at a time; see apps.core.duties."""

    name = models.CharField(max_length=40, primary_key=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "duties"

    def __str__(self) -> str:
        return self.name


class FailedSignIns(models.Model):
    """How often signing in failed lately, and until when it is refused: see apps.core.throttle."""

    class Scope(models.TextChoices):
        PAIR = "pair"  # one name from one address
        ADDRESS = "address"
        NAME = "name"

    key = models.CharField(max_length=64, primary_key=True)
    door = models.CharField(max_length=20)
    scope = models.CharField(max_length=8, choices=Scope)
    address = models.CharField(max_length=50, blank=True)
    count = models.PositiveIntegerField(default=0, db_default=0)
    last_at = models.DateTimeField()
    locked_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-last_at",)
        verbose_name_plural = "failed sign-ins"
        indexes = (models.Index(fields=["last_at"]),)  # what is forgotten

    def __str__(self) -> str:
        return f"{self.door}: {self.count} of one {self.scope}"
