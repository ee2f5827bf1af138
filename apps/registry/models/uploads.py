"""Image archives on their way into the registry."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.core.models import Leased
from apps.registry.models.repositories import DIGEST, TAG, Repository
from apps.tenants.models import Tenant


class Upload(Leased):
    """One archive that somebody sent. Its bytes lie in the spool (apps.registry.spool) until it has ended."""

    class Status(models.TextChoices):
        RECEIVING = "receiving"
        CHECKING = "checking"
        PUSHING = "pushing"
        DONE = "done"
        FAILED = "failed"
        EXPIRED = "expired"

    OPEN = (Status.RECEIVING, Status.CHECKING, Status.PUSHING)

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="uploads")
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="uploads")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    pushed_by = models.CharField(max_length=150, help_text="the person's user name")
    tag = models.CharField(max_length=128)
    status = models.CharField(max_length=10, choices=Status, default=Status.RECEIVING)
    status_since = models.DateTimeField()
    deadline_at = models.DateTimeField(help_text="of this status")
    spool = models.UUIDField(help_text="which spool directory holds its bytes: another machine may not see it")
    declared_bytes = models.PositiveBigIntegerField(null=True, blank=True, help_text="what was announced")
    received_bytes = models.PositiveBigIntegerField(default=0)
    pushed_bytes = models.PositiveBigIntegerField(default=0, help_text="what the registry has of the image's blobs")
    image_bytes = models.PositiveBigIntegerField(default=0, help_text="the image's blobs together, once it was checked")
    digest = models.CharField(max_length=71, blank=True, help_text="what the tag names, once it is done")
    code = models.CharField(max_length=60, blank=True)
    detail = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=Q(tag__regex=TAG), name="upload_tag_is_a_tag"),
            models.CheckConstraint(
                condition=Q(status__in=["receiving", "checking", "pushing", "done", "failed", "expired"]),
                name="upload_status_known",
            ),
            models.CheckConstraint(condition=Q(digest="") | Q(digest__regex=DIGEST), name="upload_digest_is_sha256"),
        )
        indexes = (
            # What the sweep looks for.
            models.Index(
                fields=["deadline_at"],
                condition=Q(status__in=["receiving", "checking", "pushing"]),
                name="upload_open",
            ),
            models.Index(fields=["repository", "-id"], name="upload_of_repository"),
        )

    def __str__(self) -> str:
        return f"{self.uid} to {self.tag}"
