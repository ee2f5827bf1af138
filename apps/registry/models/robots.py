"""Credentials for the registry that belong to no person, and what clients keep of a sign-in."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from apps.registry.models.repositories import Repository
from apps.tenants.models import ApiToken, Tenant
from apps.tenants.models.tenants import SLUG, valid_slug


class Robot(models.Model):
    """An account of a tenant's machine, for the registry only. Its secret is shown once; only its hash is kept."""

    class Action(models.TextChoices):
        PULL = "pull"
        PUSH = "push"
        DELETE = "delete"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="robots")
    repository = models.ForeignKey(
        Repository, on_delete=models.CASCADE, null=True, blank=True, related_name="robots", help_text="empty: all"
    )
    name = models.CharField(max_length=40, validators=[valid_slug])
    actions = models.JSONField(default=list, help_text='of "pull", "push", "delete"')
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    is_active = models.BooleanField(default=True)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["tenant", "name"], name="robot_once"),
            models.CheckConstraint(condition=Q(name__regex=SLUG), name="robot_name_is_slug"),
        )

    def __str__(self) -> str:
        return self.login

    @property
    def login(self) -> str:
        """What it gives as its user name. People's names hold no slash."""
        return f"robot/{self.tenant.slug}/{self.name}"

    def is_live(self, at: datetime) -> bool:
        return self.is_active and self.tenant.is_active and (self.expires_at is None or self.expires_at > at)

    def may(self, action: str, repository: Repository) -> bool:
        """Of a live robot: whether it may do this, one of ``Action``."""
        reaches = self.repository_id in (None, repository.pk) and self.tenant_id == repository.tenant_id
        return reaches and action in self.actions


class RefreshToken(models.Model):
    """What ``docker login`` keeps instead of a password: good for what its credential is good for, and no longer."""

    api_token = models.ForeignKey(
        ApiToken, on_delete=models.CASCADE, null=True, blank=True, related_name="refresh_tokens"
    )
    robot = models.ForeignKey(Robot, on_delete=models.CASCADE, null=True, blank=True, related_name="refresh_tokens")
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    client = models.CharField(max_length=60, blank=True, help_text="as it called itself")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(help_text="moved on whenever it is used")
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(api_token__isnull=True, robot__isnull=False)
                | Q(api_token__isnull=False, robot__isnull=True),
                name="refresh_token_of_one_credential",
            ),
        )

    def __str__(self) -> str:
        return f"{self.prefix}…"
