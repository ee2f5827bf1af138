"""Certificates of tenants and of the platform, and how one is come by from an authority by ACME (RFC 8555)."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q

from apps.core.crypto import EncryptedJSONField, EncryptedTextField
from apps.core.models import Leased
from apps.deployments.models.apps import App
from apps.tenants.models import Tenant


class Certificate(Leased):
    """One that is shown to clients, once there is a ``chain``; the status is of how the next one is come by."""

    class Source(models.TextChoices):
        UPLOADED = "uploaded"
        ACME = "acme"
        PLATFORM = "platform"

    class Status(models.TextChoices):
        WAITING = "waiting"  # to be ordered, at retry_at
        PROVING = "proving"  # ordered; the authority is to find our answers at the gateways
        READY = "ready"
        FAILED = "failed"

    OPEN = (Status.WAITING, Status.PROVING)

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="certificates", help_text="none: ours"
    )
    source = models.CharField(max_length=10, choices=Source)
    name = models.CharField(max_length=253, blank=True, help_text="that is ordered; one order for each name")
    names = models.JSONField(default=list, help_text="all that it is good for; shown for those that the tenant holds")
    chain = models.TextField(blank=True)
    key = EncryptedTextField(blank=True)
    issuer = models.CharField(max_length=200, blank=True)
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256")
    not_before = models.DateTimeField(null=True, blank=True)
    not_after = models.DateTimeField(null=True, blank=True)
    renew_at = models.DateTimeField(null=True, blank=True)
    warned_days = models.SmallIntegerField(null=True, blank=True, help_text="the last warning, in days before its end")
    status = models.CharField(max_length=8, choices=Status)
    status_since = models.DateTimeField()
    deadline_at = models.DateTimeField(null=True, blank=True, help_text="of the order")
    retry_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    code = models.CharField(max_length=60, blank=True)
    detail = models.CharField(max_length=500, blank=True)
    order = EncryptedJSONField(default=dict, help_text="the authority's, with the key that it is for")
    ordered_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # As App.route_wanted and route_published.
    wanted = models.PositiveBigIntegerField(default=0, editable=False)
    published = models.PositiveBigIntegerField(default=0, editable=False)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["name"], condition=Q(source="acme"), name="certificate_one_order_per_name"),
            models.UniqueConstraint(fields=["source"], condition=Q(source="platform"), name="certificate_one_of_ours"),
            models.CheckConstraint(
                condition=Q(source__in=["uploaded", "acme"], tenant__isnull=False)
                | Q(source="platform", tenant__isnull=True),
                name="certificate_belongs",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["waiting", "proving", "ready", "failed"]), name="certificate_status_known"
            ),
        )
        indexes = (
            # the sweep: orders to be moved on
            models.Index(
                fields=["retry_at"], condition=Q(status__in=["waiting", "proving"]), name="certificate_to_move"
            ),
            # the sweep: what is to be renewed, and what is about to end
            models.Index(fields=["renew_at"], condition=Q(source="acme"), name="certificate_to_renew"),
            models.Index(fields=["not_after"], name="certificate_ends"),
            models.Index(fields=["id"], condition=Q(wanted__gt=F("published")), name="certificate_unpublished"),
        )

    def __str__(self) -> str:
        return self.name or ", ".join(self.names[:3]) or str(self.uid)

    @property
    def node(self) -> str:
        """What it is called in ZooKeeper."""
        return f"c-{self.pk}"


class Challenge(models.Model):
    """What the gateways answer to an authority that asks for a token under a name of the app (RFC 8555, 8.3)."""

    certificate = models.ForeignKey(Certificate, on_delete=models.CASCADE, related_name="challenges")
    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="challenges")
    token = models.CharField(max_length=128)
    answer = models.CharField(max_length=257)
    route = models.PositiveBigIntegerField(help_text="App.route_wanted that has it")

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["app", "token"], name="challenge_once"),)

    def __str__(self) -> str:
        return f"{self.app} {self.token[:12]}"


class AcmeAccount(models.Model):
    """The platform's account with one authority."""

    directory = models.CharField(max_length=200, unique=True, help_text="the authority's address")
    key = EncryptedTextField()
    uri = models.CharField(max_length=500, blank=True, help_text="empty: not registered yet")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.directory
