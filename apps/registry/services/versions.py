"""Versions, from what the registry says was pushed."""

from __future__ import annotations

import re
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from apps.core import events, jobs
from apps.core.clock import now
from apps.registry.models import Manifest, Repository, Version
from apps.registry.models.repositories import DIGEST, TAG
from apps.registry.services.manifests import manifest_doubted, manifest_noted, repository_pushed_to
from apps.tenants.models import Tenant


def repository_create(*, tenant: Tenant, name: str) -> Repository:
    """Part of the caller's transaction. IntegrityError where the name is taken."""
    return Repository.objects.create(tenant=tenant, name=name)


def repository_close(*, name: str) -> None:
    """Nobody gets a token for it any more, and pushes are not noted: part of the transaction that deletes its app."""
    Repository.objects.filter(name=name, deleting_at=None).update(deleting_at=now())


def repository_cleaned(*, name: str) -> None:
    """Its app's rules were applied: the others come first now."""
    Repository.objects.filter(name=name).update(cleaned_at=now())


def repository_erase(*, name: str) -> None:
    """The name is free again: part of the caller's transaction. What the registry held is gone by then."""
    Repository.objects.filter(name=name, deleting_at__isnull=False).delete()


@transaction.atomic
def version_pushed(
    *, repository: str, tag: str, digest: str, media_type: str, pushed_by: str, pushed_at: datetime
) -> Version | None:
    """Note that the tag named this digest at that time. Safe to repeat and in any order: the latest push wins, over an
    earlier deletion too.

    Returns None for what can't be ours: a repository that is unknown, being deleted or younger than the push, or a
    tag or digest that is none.
    """
    if not re.fullmatch(TAG, tag) or not re.fullmatch(DIGEST, digest):
        return None
    owner = repository_pushed_to(name=repository, at=pushed_at)
    if owner is None:
        return None
    # Never all of them: the registry waits for the answer with what others push, and a tag may have had any number.
    rows = Version.objects.filter(repository=owner, tag=tag)
    known = rows.filter(digest=digest).first()
    if known is not None and known.deleting_at is not None and not _outlives(known, pushed_at):
        return known
    manifest_noted(repository=owner, digest=digest, media_type=media_type, pushed_by=pushed_by, pushed_at=pushed_at)
    current = rows.filter(is_current=True).first()
    latest = (current is None or pushed_at >= current.pushed_at) and not rows.filter(_outlasting(pushed_at)).exists()
    if current is not None and latest and current.digest != digest:
        Version.objects.filter(pk=current.pk).update(is_current=False, current_until=pushed_at)
    if known is not None:
        if latest:
            same = known.is_current or (current is None and not pushed_by and _is_back(known, rows))
            Version.objects.filter(pk=known.pk).update(
                is_current=True,
                pushed_at=pushed_at,
                pushed_by=pushed_by or known.pushed_by,
                deleting_at=None,
                deleted_at=None,
                current_since=known.current_since if same else pushed_at,
            )
            if not same:
                jobs.enqueue(jobs.DEPLOY_PUSHED, owner.name)
        elif pushed_by and not known.pushed_by:
            # A listing had found it first, which does not know who pushed.
            Version.objects.filter(pk=known.pk).update(
                pushed_by=pushed_by[:150], current_since=pushed_at if known.is_current else known.current_since
            )
        return known
    version = Version.objects.create(
        repository=owner,
        tag=tag,
        digest=digest,
        media_type=media_type[:120],
        pushed_by=pushed_by[:150],
        pushed_at=pushed_at,
        is_current=latest,
        current_since=pushed_at if latest else None,
    )
    if latest:
        jobs.enqueue(jobs.DEPLOY_PUSHED, owner.name)
    events.record(
        "version.pushed",
        f"{repository}:{tag} was pushed ({digest[:19]}).",
        tenant_id=owner.tenant_id,
        actor=pushed_by[:150],
        repository=repository,
        tag=tag,
        digest=digest,
    )
    return version


def _is_back(version: Version, rows: QuerySet[Version]) -> bool:
    """Of a tag that named nothing, whether a listing finds again what it named last: the registry's storage was away
    for a moment, and nobody pushed anything that would be a reason to deploy.
    """
    return version.deleting_at is None and not rows.filter(pushed_at__gt=version.pushed_at).exists()


def _outlives(version: Version, pushed_at: datetime) -> bool:
    """Whether this push came after the deletion, or is one that whoever deleted the version did not know of."""
    return pushed_at > (version.deleted_at or version.pushed_at)


def _outlasting(pushed_at: datetime) -> Q:
    """Versions of the tag by which it was deleted after that push: those that it does not outlive."""
    return Q(deleting_at__isnull=False) & (Q(deleted_at__gte=pushed_at) | Q(deleted_at=None, pushed_at__gte=pushed_at))


@transaction.atomic
def repository_listed(
    *, repository: Repository, tags: dict[str, str], asked_at: datetime, complete: bool = True
) -> None:
    """Compare with what the registry holds (tag -> digest, as it stood at ``asked_at`` or later).

    Mends lost notifications. Of a complete listing, a tag that is gone is no longer current; a tag pushed after
    the question stays.
    """
    # First, as everybody who changes versions and manifests does: two that take these in turn would wait in a ring.
    Repository.objects.select_for_update().filter(pk=repository.pk).first()
    going = _going(repository, asked_at)
    rows = Version.objects.filter(repository=repository, is_current=True)
    known = {tag: (digest, at) for tag, digest, at in rows.values_list("tag", "digest", "pushed_at")}
    noted = set(Manifest.objects.filter(repository=repository).values_list("digest", flat=True))
    for tag, digest in tags.items():
        if tag in going:
            continue
        its, at = known.get(tag, ("", asked_at))
        if (its != digest and (not its or at < asked_at)) or digest not in noted:
            version_pushed(
                repository=repository.name,
                tag=tag,
                digest=digest,
                media_type="",
                pushed_by="",
                pushed_at=asked_at if its != digest else at,
            )
    if not complete:
        return
    gone = rows.filter(pushed_at__lt=asked_at).exclude(tag__in=tags)
    # Perhaps somebody deleted the manifest: then it is forgotten, too.
    for digest in sorted({digest for tag, (digest, at) in known.items() if tag not in tags and at < asked_at}):
        manifest_doubted(repository=repository.name, digest=digest)
    gone.update(is_current=False, current_until=asked_at)


def _going(repository: Repository, asked_at: datetime) -> set[str]:
    """Tags that were being deleted when the registry was asked: that it still had them is no push."""
    going = Version.objects.filter(repository=repository, deleting_at__isnull=False)
    return set(going.filter(Q(deleted_at=None) | Q(deleted_at__gte=asked_at)).values_list("tag", flat=True))


def repository_asked(*, repository: Repository, at: datetime) -> None:
    """It was listed, as it stood then: the others come first now."""
    Repository.objects.filter(pk=repository.pk).update(listed_at=at)
