"""Manifests: noted when they are pushed or listed, described once they were read, forgotten once they are gone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.db import transaction

from apps.core import jobs
from apps.registry.models import Manifest, Repository
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
