"""The keys that sign tokens for the registry."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.core.crypto import EncryptedTextField


class TokenKey(models.Model):
    """One RSA key. Before the first rotation there is none here: the file of BERTH_REGISTRY_TOKEN_KEY signs."""

    class Status(models.TextChoices):
        PREPARED = "prepared"  # in the registry's bundle, signs nothing yet
        SIGNING = "signing"
        RETIRING = "retiring"  # signs nothing any more; tokens of it may be about
        REMOVED = "removed"  # its private half is deleted

    kid = models.CharField(max_length=60, unique=True)
    private_key = EncryptedTextField(blank=True)
    certificate = models.TextField(help_text="PEM")
    status = models.CharField(max_length=8, choices=Status)
    created_at = models.DateTimeField(auto_now_add=True)
    signing_at = models.DateTimeField(null=True, blank=True, help_text="since when it signed")
    retired_at = models.DateTimeField(null=True, blank=True, help_text="since when it signs no more")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["status"], condition=Q(status="signing"), name="token_key_one_signing"),
            models.UniqueConstraint(fields=["status"], condition=Q(status="prepared"), name="token_key_one_prepared"),
            models.CheckConstraint(
                condition=Q(status__in=["prepared", "signing", "retiring", "removed"]), name="token_key_status_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kid[:9]}… ({self.status})"
