"""How machines become hosts: the platform's authority, one-time tokens, and what a joined host is known by."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.core.validators import MaxValueValidator
from django.db import models

from apps.core.crypto import EncryptedTextField
from apps.hosts.models.hosts import Cluster, Host, valid_labels


class Authority(models.Model):
    """Signs the certificates of hosts, and the client certificate that the platform shows to their engines."""

    name = models.SlugField(max_length=40, unique=True)
    certificate = models.TextField(help_text="PEM")
    key = EncryptedTextField(help_text="PEM of its private key; encrypted at rest")
    expires_at = models.DateTimeField()
    client_certificate = models.TextField(help_text="PEM of the platform's own certificate for engines")
    client_key = EncryptedTextField(help_text="PEM of its private key; encrypted at rest")
    client_expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "authorities"

    def __str__(self) -> str:
        return self.name


class JoinToken(models.Model):
    """Lets one machine become a host of the cluster, once. The secret is shown when it is made; its hash is kept."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="join_tokens")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the secret")
    prefix = models.CharField(max_length=12, help_text="the secret's beginning, to tell tokens apart")
    labels = models.JSONField(
        default=dict, blank=True, validators=[valid_labels], help_text="the host gets these, whatever it says itself"
    )
    memory_mb_reserve = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(2**26)],
        help_text="MiB kept for the host's own system; empty: 256 MiB or 5 %, whichever is more. At most half",
    )
    cpu_millis_reserve = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(2**23)],
        help_text="kept for the host's own system; empty: 100 or 5 %, whichever is more. At most half",
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="join_tokens"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.SET_NULL, related_name="join_tokens")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.prefix}…"

    def state(self, at: datetime) -> str:
        """One word for people: used, revoked, expired or open."""
        if self.used_at is not None:
            return "used"
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= at else "open"


class HostIdentity(models.Model):
    """What a joined host reports with, and the certificate that its engine shows. Hosts added by hand have none."""

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="identity")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the secret that it reports with")
    key_digest = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="SHA-256 of the engine's public key (SubjectPublicKeyInfo)",
    )
    certificate_serial = models.CharField(max_length=40, help_text="in hexadecimal")
    certificate_expires_at = models.DateTimeField()
    joined_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "host identities"

    def __str__(self) -> str:
        return f"identity of {self.host_id}"
