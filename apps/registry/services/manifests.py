"""Manifests: noted when they are pushed or listed, described once they were read, forgotten once they are gone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from apps.core import jobs
from apps.core.clock import now
from apps.registry.models import Manifest, Part, Repository, Version
from apps.registry.models.repositories import DIGEST

#: A push that was told so much before the repository was made is of an earlier one of its name. Clocks differ a little.
EARLIER = timedelta(seconds=30)


def repository_pushed_to(*, name: str, at: datetime) -> Repository | None:
    """The repository, locked: pushes of one are noted one after the other, so that two can't both become current.

    None for what can't be ours: a repository that is unknown, being deleted or younger than the push.
    """
    owner = Repository.objects.select_for_update().filter(name=name).first()
    if owner is None or owner.deleting_at is not None or at < owner.created_at - EARLIER:
        return None
    return owner


@transaction.atomic
def manifest_pushed(
    *, repository: str, digest: str, media_type: str, pushed_by: str, pushed_at: datetime
) -> Manifest | None:
    """Note that this was pushed, under a tag or without. Safe to repeat and in any order. None for what isn't ours."""
    if not re.fullmatch(DIGEST, digest):
        return None
    owner = repository_pushed_to(name=repository, at=pushed_at)
    if owner is None:
        return None
    return manifest_noted(
        repository=owner, digest=digest, media_type=media_type, pushed_by=pushed_by, pushed_at=pushed_at
    )


def manifest_noted(
    *, repository: Repository, digest: str, media_type: str, pushed_by: str, pushed_at: datetime
) -> Manifest:
    """Part of a transaction that holds the repository's row. What was to be deleted and was pushed since stays."""
    manifest, new = Manifest.objects.get_or_create(
        repository=repository,
        digest=digest,
        defaults={"media_type": media_type[:120], "pushed_by": pushed_by[:150], "pushed_at": pushed_at},
    )
    if new:
        jobs.enqueue(jobs.DESCRIBE_MANIFEST, manifest.pk)
    elif pushed_at > manifest.pushed_at:
        # Perhaps it had gone in between: it is read anew where it was to go.
        anew = {} if manifest.deleting_at is None else {"deleting_at": None, "described_at": None}
        Manifest.objects.filter(pk=manifest.pk).update(
            pushed_at=pushed_at, pushed_by=pushed_by[:150] or manifest.pushed_by, **anew
        )
    return manifest


@transaction.atomic
def manifest_doubted(*, repository: str, digest: str) -> None:
    """Somebody says that it was deleted: it is read anew, and forgotten if that is so."""
    # One that is just being read, too: it may have been there still (see ``manifest_described``).
    rows = Manifest.objects.filter(repository__name=repository, digest=digest)
    for pk in rows.values_list("pk", flat=True):
        jobs.enqueue(jobs.DESCRIBE_MANIFEST, pk)
    rows.update(described_at=None, describe_after=None)


@transaction.atomic
def manifest_gone(*, manifest: Manifest, asked_at: datetime) -> bool:
    """The registry did not have it when it was asked: so do we not. False where it was pushed again since.

    Where the platform deleted it, what only it named is to go too; what somebody else deleted by hand goes alone.
    """
    Repository.objects.select_for_update().filter(pk=manifest.repository_id).first()
    told = Q(pushed_at__lt=asked_at)
    if manifest.deleting_at is not None:
        # A push since would have taken that back, whatever clocks say.
        told |= Q(deleting_at=manifest.deleting_at)
    row = Manifest.objects.filter(told, pk=manifest.pk).first()
    if row is None:
        return False
    children = list(row.parts.filter(kind=Part.Kind.MANIFEST).values_list("digest", flat=True))
    Manifest.objects.filter(pk=row.pk).delete()
    Version.objects.filter(
        repository_id=manifest.repository_id, digest=manifest.digest, is_current=True, pushed_at__lt=asked_at
    ).update(is_current=False, current_until=asked_at)
    left = Manifest.objects.filter(repository_id=manifest.repository_id, digest__in=children, deleting_at=None)
    if row.deleting_at is not None and unnamed(left).update(deleting_at=now()):
        jobs.enqueue(jobs.CLEAN_REPOSITORY, manifest.repository_id)
    jobs.enqueue(jobs.COUNT_STORAGE, manifest.repository.tenant_id)
    return True


def unnamed(manifests: QuerySet[Manifest]) -> QuerySet[Manifest]:
    """Those that no version (which is not being deleted, current or not) and no index of their repository names."""
    versions = Version.objects.filter(repository=OuterRef("repository"), digest=OuterRef("digest"), deleting_at=None)
    indexes = Part.objects.filter(
        kind=Part.Kind.MANIFEST,
        digest=OuterRef("digest"),
        manifest__repository=OuterRef("repository"),
        manifest__deleting_at=None,
    )
    return manifests.exclude(Exists(versions)).exclude(Exists(indexes))
