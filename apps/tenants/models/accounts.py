"""People, and the tokens by which their tools act for them."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A person. What they may do follows from their memberships, not from this row."""

    email = models.EmailField(unique=True)


class ApiToken(models.Model):
    """A secret shown once; only its hash is kept. Its prefix finds the row, so no scan over hashes is needed."""

    class Scope(models.TextChoices):
        API = "api"
        REGISTRY = "registry"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"
