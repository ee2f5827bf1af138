"""What is asked of gateways for an app: rules for its requests, who may sign in, and ports for an app of TCP."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.core.crypto import EncryptedTextField
from apps.deployments.models.apps import App


class GatewayPolicy(models.Model):
    """An app's rules; gateway.contract.Policy says what each does. One without a row asks for nothing.

    Seconds, bytes, requests a second; 0 is off. ``salt`` (base64) keys the digests of ``SignInPerson``.
    """

    app = models.OneToOneField(App, on_delete=models.CASCADE, related_name="gateway_policy")
    maintenance = models.BooleanField(default=False)
    https_only = models.BooleanField(default=False)
    hsts_seconds = models.PositiveIntegerField(default=0)
    hold_s = models.PositiveIntegerField(default=0)
    app_rate = models.PositiveIntegerField(default=0)
    client_rate = models.PositiveIntegerField(default=0)
    max_body_bytes = models.PositiveBigIntegerField(default=0)
    max_header_bytes = models.PositiveIntegerField(default=0)
    answer_timeout_s = models.PositiveIntegerField(default=0)
    deny = models.JSONField(default=list, blank=True)
    allow = models.JSONField(default=list, blank=True)
    canary_for_testers = models.BooleanField(default=False)
    salt = EncryptedTextField(blank=True, default="", editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=150, blank=True)

    def __str__(self) -> str:
        return f"policy of {self.app}"


class SignInPerson(models.Model):
    """One who may sign in to an app by basic authentication (RFC 7617). The password is not kept.

    ``digest``: HMAC-SHA-256 in hexadecimal digits, keyed with the app's salt, of the header that a browser sends.
    Encrypted: it is quick to work out, so whoever reads it may try passwords.
    """

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="sign_in_people")
    name = models.CharField(max_length=64)
    digest = EncryptedTextField()
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["app", "name"], name="sign_in_person_once"),)

    def __str__(self) -> str:
        return f"{self.name} of {self.app}"


class GatewayPort(models.Model):
    """One port of the gateways' pool: an app's, or given back and resting.

    ``owner`` is the app's id and stays when the app is gone. A port that was given back rests until the publication
    without it (``wanted``, App.route_wanted) stands in ZooKeeper as of ``zxid`` of ``epoch``, every live gateway has
    that in force, and some time has passed: a stale route, or a client that knows the port still, must not come to
    another tenant.
    """

    class Status(models.TextChoices):
        CLAIMED = "claimed"
        RESTING = "resting"

    port = models.PositiveIntegerField(unique=True)
    tenant_id = models.BigIntegerField()
    owner = models.BigIntegerField()
    status = models.CharField(max_length=8, choices=Status, default=Status.CLAIMED)
    claimed_at = models.DateTimeField(auto_now_add=True)
    claimed_by = models.CharField(max_length=150, blank=True)
    freed_at = models.DateTimeField(null=True, blank=True)
    wanted = models.PositiveBigIntegerField(default=0)
    epoch = models.CharField(max_length=36, blank=True)
    zxid = models.BigIntegerField(default=0)

    class Meta:
        ordering = ("port",)
        constraints = (
            models.CheckConstraint(condition=Q(port__gte=1, port__lte=65535), name="gateway_port_is_a_port"),
        )
        indexes = (
            models.Index(fields=["owner"]),  # an app's publication, and its page
            models.Index(fields=["tenant_id"]),  # how many a tenant has
            models.Index(fields=["status"]),  # the look at those that rest
        )

    def __str__(self) -> str:
        return f"{self.port} {self.status}"
