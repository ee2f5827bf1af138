"""Repositories and what was pushed to them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.tenants.models import Tenant
from apps.tenants.models.tenants import SLUG, valid_slug

# Both grammars: opencontainers/distribution-spec, "Pulling manifests"; opencontainers/image-spec, "Digests".
TAG = r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z"
DIGEST = r"\Asha256:[0-9a-f]{64}\Z"


class Repository(models.Model):
    """``{registry}/{name}``; the name is the app's slug."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="repositories")
    name = models.CharField(max_length=40, unique=True, validators=[valid_slug])
    created_at = models.DateTimeField(auto_now_add=True)
    listed_at = models.DateTimeField(null=True, blank=True, help_text="last compared with the registry")
    deleting_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="nothing may be pushed since")
    tokens_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="when the last token that somebody was given for it has ended"
    )

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "repositories"
        constraints = (models.CheckConstraint(condition=Q(name__regex=SLUG), name="repository_name_is_slug"),)
        indexes = (models.Index(fields=["listed_at"]),)  # the sweep takes the longest unlisted first

    def __str__(self) -> str:
        return self.name


class Version(models.Model):
    """One tag pinned to one digest. A tag that is pushed anew gets another row, and releases keep theirs."""

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="versions")
    tag = models.CharField(max_length=128)
    digest = models.CharField(max_length=71)
    media_type = models.CharField(max_length=120, blank=True)
    pushed_by = models.CharField(max_length=150, blank=True)
    pushed_at = models.DateTimeField()
    is_current = models.BooleanField(default=True, help_text="what the tag names now")

    class Meta:
        ordering = ("-pushed_at", "-id")
        constraints = (
            models.UniqueConstraint(fields=["repository", "tag", "digest"], name="version_once"),
            models.UniqueConstraint(
                fields=["repository", "tag"], condition=Q(is_current=True), name="version_one_current_per_tag"
            ),
            models.CheckConstraint(condition=Q(digest__regex=DIGEST), name="version_digest_is_sha256"),
            models.CheckConstraint(condition=Q(tag__regex=TAG), name="version_tag_is_a_tag"),
        )

    def __str__(self) -> str:
        return f"{self.tag}@{self.digest[:19]}"
