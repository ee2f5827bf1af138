"""Deleting versions: said here, carried out by apps.registry.cleaning.

A version is a tag of one digest. What the registry stores goes once no version and no index names it any more; a tag
that is pushed again in between stays.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from apps.core import events, jobs
from apps.core.clock import now
from apps.registry.models import Manifest, Part, Repository, Version


@transaction.atomic
def version_remove(*, version: Version, by: str) -> bool:
    """The tag is to name this digest no more, and what nothing else names is to leave the registry.

    Whether anything runs it is the caller's to know: apps.deployments.services.versions looks. ``by`` is a user's name,
    or empty for the platform. False where it is being deleted already, or gone.
    """
    owner = Repository.objects.select_for_update().filter(pk=version.repository_id, deleting_at=None).first()
    rows = Version.objects.filter(pk=version.pk, deleting_at=None)
    if owner is None or not rows.update(deleting_at=now(), is_current=False):
        return False
    unnamed(Manifest.objects.filter(repository=owner, digest=version.digest, deleting_at=None)).update(
        deleting_at=now()
    )
    events.record(
        "version.deleting",
        f"{owner.name}:{version.tag} is being deleted ({version.digest[:19]}).",
        tenant_id=owner.tenant_id,
        actor=by,
        repository=owner.name,
        tag=version.tag,
        digest=version.digest,
    )
    jobs.enqueue(jobs.CLEAN_REPOSITORY, owner.pk)
    return True


@transaction.atomic
def manifest_remove(*, manifest: Manifest) -> bool:
    """What was pushed without a tag, or lost its last one, is to leave the registry.

    False where a version or an index names it, or it is being deleted already, or gone.
    """
    owner = Repository.objects.select_for_update().filter(pk=manifest.repository_id, deleting_at=None).first()
    rows = unnamed(Manifest.objects.filter(pk=manifest.pk, deleting_at=None))
    if owner is None or not rows.update(deleting_at=now()):
        return False
    jobs.enqueue(jobs.CLEAN_REPOSITORY, owner.pk)
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
