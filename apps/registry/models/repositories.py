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
    is_public = models.BooleanField(
        default=False, db_default=False, help_text="anybody may pull it, without signing in"
    )
    tokens_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="when the last token that somebody was given for it has ended"
    )

    loose_bytes = models.PositiveBigIntegerField(
        default=0, db_default=0, editable=False, help_text="stored beside what its manifests name; see registry_collect"
    )
    cleaned_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="when its rules were applied")

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "repositories"
        constraints = (models.CheckConstraint(condition=Q(name__regex=SLUG), name="repository_name_is_slug"),)
        # The sweeps take those first that were not listed, or cleaned up, for the longest time.
        indexes = (models.Index(fields=["listed_at"]), models.Index(fields=["cleaned_at"]))

    def __str__(self) -> str:
        return self.name


class Manifest(models.Model):
    """What the registry stores of a repository under one digest: an image, an index of images, or another artifact.

    Every push makes one, under a tag or without. What it is made of is read from the registry afterwards.
    """

    class Kind(models.TextChoices):
        UNKNOWN = "unknown"  # not read yet
        IMAGE = "image"
        INDEX = "index"
        ARTIFACT = "artifact"  # nothing that a container could be made of: a signature, a chart

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="manifests")
    digest = models.CharField(max_length=71)
    media_type = models.CharField(max_length=120, blank=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.UNKNOWN)
    size_bytes = models.PositiveBigIntegerField(
        default=0, help_text="its own bytes and its blobs', what is compressed as it is; of an index all its images'"
    )
    own_bytes = models.PositiveIntegerField(default=0, db_default=0, help_text="of the manifest itself, without parts")
    platforms = models.JSONField(default=list, help_text='[{"os", "architecture", "variant"}]; of an artifact none')
    config = models.JSONField(
        default=dict, help_text="of the image's configuration: labels, ports, user, entrypoint, stop signal, created"
    )
    pushed_by = models.CharField(max_length=150, blank=True)
    pushed_at = models.DateTimeField()
    described_at = models.DateTimeField(null=True, blank=True, help_text="when its content was read")
    describe_after = models.DateTimeField(
        null=True, blank=True, help_text="not before: a reading failed; the next is later each time"
    )
    describe_failures = models.PositiveSmallIntegerField(default=0)
    deleting_at = models.DateTimeField(null=True, blank=True, help_text="the registry is to delete it")

    class Meta:
        ordering = ("-pushed_at", "-id")
        constraints = (
            models.UniqueConstraint(fields=["repository", "digest"], name="manifest_once"),
            models.CheckConstraint(condition=Q(digest__regex=DIGEST), name="manifest_digest_is_sha256"),
            models.CheckConstraint(
                condition=Q(kind__in=["unknown", "image", "index", "artifact"]), name="manifest_kind_known"
            ),
        )
        indexes = (
            # What is still to be read, and what is to be deleted.
            models.Index(fields=["describe_after"], condition=Q(described_at=None), name="manifest_to_describe"),
            models.Index(fields=["deleting_at"], condition=Q(deleting_at__isnull=False), name="manifest_to_delete"),
        )

    def __str__(self) -> str:
        return f"{self.repository_id}@{self.digest[:19]}"


class Part(models.Model):
    """Something that a manifest names by its digest: a blob, or a manifest of the same repository.

    A tenant's storage is the sum over distinct digests, since the registry keeps each blob once.
    """

    class Kind(models.TextChoices):
        LAYER = "layer"
        CONFIG = "config"
        MANIFEST = "manifest"

    manifest = models.ForeignKey(Manifest, on_delete=models.CASCADE, related_name="parts")
    digest = models.CharField(max_length=71)
    kind = models.CharField(max_length=10, choices=Kind)
    size_bytes = models.PositiveBigIntegerField(help_text="as it is stored")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("manifest_id", "position")
        constraints = (
            models.UniqueConstraint(fields=["manifest", "digest"], name="part_once"),
            models.CheckConstraint(condition=Q(digest__regex=DIGEST), name="part_digest_is_sha256"),
        )
        indexes = (models.Index(fields=["digest"]),)  # who else needs this blob

    def __str__(self) -> str:
        return f"{self.kind} {self.digest[:19]}"


class Version(models.Model):
    """One tag pinned to one digest. A tag that is pushed anew gets another row, and releases keep theirs."""

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="versions")
    tag = models.CharField(max_length=128)
    digest = models.CharField(max_length=71)
    media_type = models.CharField(max_length=120, blank=True)
    pushed_by = models.CharField(max_length=150, blank=True)
    pushed_at = models.DateTimeField()
    is_current = models.BooleanField(default=True, help_text="what the tag names now")
    current_since = models.DateTimeField(
        null=True, blank=True, help_text="when the tag began to name it; pushing the same again changes nothing"
    )
    current_until = models.DateTimeField(
        null=True, blank=True, help_text="when the tag was last seen to name it no more, or to be gone"
    )
    deleting_at = models.DateTimeField(null=True, blank=True, help_text="deleted: not to be deployed any more")
    deleted_at = models.DateTimeField(null=True, blank=True, help_text="since when the tag is out of the registry")

    class Meta:
        ordering = ("-pushed_at", "-id")
        indexes = (
            # Tags that the registry is to forget.
            models.Index(
                fields=["repository"], condition=Q(deleting_at__isnull=False, deleted_at=None), name="version_to_delete"
            ),
        )
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
