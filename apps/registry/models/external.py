"""Registries of others that a tenant reads from, and copies of images out of them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.core.crypto import EncryptedJSONField, EncryptedTextField
from apps.core.models import Leased
from apps.registry.models.repositories import DIGEST, TAG, Repository
from apps.tenants.models import Tenant
from apps.tenants.models.tenants import SLUG, valid_slug


class ExternalRegistry(models.Model):
    """A tenant's credential for one registry. The password is never shown again."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="external_registries")
    name = models.CharField(max_length=40, validators=[valid_slug])
    host = models.CharField(max_length=260, help_text="registry.example.com, with a port perhaps")
    username = models.CharField(max_length=255)
    password = EncryptedTextField()
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    tested_at = models.DateTimeField(null=True, blank=True, help_text="when it was last tried by hand")
    test_code = models.CharField(max_length=60, blank=True, help_text="what came of that; empty: it was let in")

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "external registries"
        constraints = (
            models.UniqueConstraint(fields=["tenant", "name"], name="external_registry_once"),
            models.UniqueConstraint(fields=["tenant", "host"], name="external_registry_one_per_host"),
            models.CheckConstraint(condition=Q(name__regex=SLUG), name="external_registry_name_is_slug"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.host})"


class Import(Leased):
    """One image that is copied from another registry into ours, by a worker."""

    class Status(models.TextChoices):
        WAITING = "waiting"
        RESOLVING = "resolving"
        COPYING = "copying"
        DONE = "done"
        FAILED = "failed"
        EXPIRED = "expired"

    OPEN = (Status.WAITING, Status.RESOLVING, Status.COPYING)

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="imports")
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="imports")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    pushed_by = models.CharField(max_length=150, help_text="the person's user name")
    source_host = models.CharField(max_length=260)
    source_path = models.CharField(max_length=200)
    source_tag = models.CharField(max_length=128, blank=True)
    source_digest = models.CharField(
        max_length=71, blank=True, help_text="what the source's tag named when it was looked up; it is copied by that"
    )
    platforms = models.JSONField(default=list, help_text='["linux/amd64"]: what is taken of an index; empty: all')
    tag = models.CharField(max_length=128, help_text="the version that it becomes")
    deploy = models.BooleanField(default=False, help_text="a rollout to it is started once it is there")
    deploy_with = EncryptedJSONField(default=dict, help_text="of the release that follows; emptied once it is made")
    deployed_at = models.DateTimeField(null=True, blank=True, help_text="when that was dealt with")
    status = models.CharField(max_length=10, choices=Status, default=Status.WAITING)
    status_since = models.DateTimeField()
    deadline_at = models.DateTimeField(help_text="of all of it")
    attempts = models.PositiveSmallIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True, help_text="not before: the other registry did not answer")
    total_bytes = models.PositiveBigIntegerField(default=0, help_text="of the image's blobs, once it was looked up")
    copied_bytes = models.PositiveBigIntegerField(default=0, help_text="what our registry has of them")
    digest = models.CharField(max_length=71, blank=True, help_text="what the version's tag names, once it is done")
    code = models.CharField(max_length=60, blank=True)
    detail = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=Q(tag__regex=TAG), name="import_tag_is_a_tag"),
            models.CheckConstraint(
                condition=Q(status__in=["waiting", "resolving", "copying", "done", "failed", "expired"]),
                name="import_status_known",
            ),
            models.CheckConstraint(
                condition=Q(source_digest="") | Q(source_digest__regex=DIGEST), name="import_source_digest_is_sha256"
            ),
            models.CheckConstraint(condition=Q(digest="") | Q(digest__regex=DIGEST), name="import_digest_is_sha256"),
        )
        indexes = (
            # What the sweep looks for: what is to be worked on or ended, and what is to be deployed.
            models.Index(
                fields=["deadline_at"],
                condition=Q(status__in=["waiting", "resolving", "copying"]),
                name="import_open",
            ),
            models.Index(
                fields=["status_since"],
                condition=Q(status="done", deploy=True, deployed_at=None),
                name="import_to_deploy",
            ),
            models.Index(fields=["repository", "-id"], name="import_of_repository"),
        )

    def __str__(self) -> str:
        return f"{self.uid} to {self.tag}"

    @property
    def source(self) -> str:
        """As people write it."""
        tag = f":{self.source_tag}" if self.source_tag else ""
        return f"{self.source_host}/{self.source_path}{tag or '@' + self.source_digest}"
