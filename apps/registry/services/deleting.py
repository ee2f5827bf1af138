"""Deleting versions: said here, carried out by apps.registry.cleaning.

A version is a tag of one digest. What the registry stores goes once no version and no index names it any more; a tag
that is pushed again in between stays.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.models import Event
from apps.registry.models import Manifest, Repository, Version
from apps.registry.services.manifests import unnamed


@transaction.atomic
def version_remove(*, version: Version, by: str, pushed_at: datetime | None = None) -> bool:
    """The tag is to name this digest no more, and what nothing else names is to leave the registry.

    Whether anything runs it is the caller's to know: apps.deployments.services.versions looks. ``by`` is a user's name,
    or empty for the platform. ``pushed_at``: only if nobody pushed it since. False where somebody did, or it is being
    deleted already, or gone.
    """
    owner = Repository.objects.select_for_update().filter(pk=version.repository_id, deleting_at=None).first()
    rows = Version.objects.filter(pk=version.pk, deleting_at=None)
    if pushed_at is not None:
        rows = rows.filter(pushed_at=pushed_at)
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

    False where a version or an index names it, somebody pushed it since it was looked at, or it is being deleted
    already, or gone.
    """
    owner = Repository.objects.select_for_update().filter(pk=manifest.repository_id, deleting_at=None).first()
    rows = unnamed(Manifest.objects.filter(pk=manifest.pk, deleting_at=None, pushed_at=manifest.pushed_at))
    if owner is None or not rows.update(deleting_at=now()):
        return False
    jobs.enqueue(jobs.CLEAN_REPOSITORY, owner.pk)
    return True


@transaction.atomic
def manifest_still_to_go(*, manifest: Manifest) -> bool:
    """A last look before it goes. What a version or an index names by now stays."""
    Repository.objects.select_for_update().filter(pk=manifest.repository_id).first()
    rows = Manifest.objects.filter(pk=manifest.pk, deleting_at__isnull=False)
    if unnamed(rows).exists():
        return True
    rows.update(deleting_at=None)
    return False


def manifest_spared(*, manifest: Manifest) -> None:
    """A tag in the registry names it that nobody told us of: it stays, and the next listing notes the tag."""
    Manifest.objects.filter(pk=manifest.pk, deleting_at=manifest.deleting_at).update(deleting_at=None)


@transaction.atomic
def version_removed(*, version: Version) -> bool:
    """The tag names it no more. False where it was pushed again meanwhile."""
    rows = Version.objects.filter(pk=version.pk, deleting_at=version.deleting_at, deleted_at=None)
    if version.deleting_at is None or not rows.update(deleted_at=now()):
        return False
    repository = version.repository
    events.record(
        "version.deleted",
        f"{repository.name}:{version.tag} was deleted ({version.digest[:19]}).",
        tenant_id=repository.tenant_id,
        repository=repository.name,
        tag=version.tag,
        digest=version.digest,
    )
    return True


#: Versions that wait, of which one is told in a sweep.
WAITING = 100


def deletions_wait() -> None:
    """Tell by an event of what takes longer than DELETE_DEADLINE_S; once for each such time. It is tried on."""
    late = timedelta(seconds=settings.DELETE_DEADLINE_S)
    rows = Version.objects.filter(deleting_at__lt=now() - late, deleted_at=None, repository__deleting_at=None)
    for version in rows.select_related("repository").order_by("deleting_at")[:WAITING]:
        name, tenant_id = version.repository.name, version.repository.tenant_id
        told = Event.objects.filter(tenant_id=tenant_id, code="version.delete_waits", at__gt=now() - late)
        if told.filter(detail__repository=name).exists():
            continue
        events.record(
            "version.delete_waits",
            f"Deleting {name}:{version.tag} takes long: it waits for the registry. The platform keeps trying.",
            level="warning",
            tenant_id=tenant_id,
            repository=name,
            tag=version.tag,
        )
