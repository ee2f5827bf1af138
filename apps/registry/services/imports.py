"""Copies of images out of other registries: asked for, worked on, ended. Bytes are moved by apps.registry.importing.

The status changes by compare-and-swap. The deadline is of all of it; what can be mended by trying again is tried again
until then, later each time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.core.errors import BerthError, Conflict, Invalid, Missing, Refused
from apps.core.leases import free
from apps.core.models import Event
from apps.registry.models import Import, Repository, Version
from apps.registry.models.repositories import TAG
from apps.registry.references import reference_parsed
from apps.registry.services.quota import storage_check
from apps.registry.services.versions import version_pushed
from apps.tenants.models import Quota, User
from apps.tenants.permissions import Action, require_images

Status = Import.Status
MOST_ATTEMPTS = 6
KEPT_DAYS = 30


class ImportMissing(Missing):
    code = "imports.not_found"


class TagInvalid(Invalid):
    code = "imports.tag_invalid"


class TooManyImports(Refused):
    code = "imports.too_many"
    status = 429


class ImportRefused(Conflict):
    """Who asked for it may not push any more, or the repository goes."""

    code = "imports.not_allowed"


class ImportExpired(Refused):
    code = "imports.expired"


def import_begin(
    *,
    repository: Repository,
    source: str,
    tag: str,
    by: User,
    platforms: Sequence[str] = (),
    deploy: bool = False,
    deploy_with: Mapping[str, Any] | None = None,
) -> Import:
    """Copy ``source`` (registry.example.com/team/app:tag) to the repository as ``tag``; empty: its own tag.

    ``platforms`` ("linux/amd64") is what is taken of an index. Whoever asks for ``deploy`` was found to may.
    Raises Denied, ReferenceInvalid, TagInvalid, TooManyImports, QuotaExceeded, ImportRefused.
    """
    require_images(by, Action.PUSH, tenant_id=repository.tenant_id, slug=repository.name)
    reference = reference_parsed(source)
    tag = tag or reference.tag
    if not re.fullmatch(TAG, tag):
        raise TagInvalid("Name the version: letters, digits, '_', '.' and '-', 128 at most.", field="tag")
    with transaction.atomic():
        # The quota row's lock makes the count exact while others begin too.
        Quota.objects.select_for_update().get(tenant_id=repository.tenant_id)
        if not Repository.objects.filter(pk=repository.pk, deleting_at=None).exists():
            raise ImportRefused("The app is being deleted: nothing can be copied to it any more.")
        if Import.objects.filter(tenant_id=repository.tenant_id, status__in=Import.OPEN).count() >= (
            settings.IMPORTS_PER_TENANT
        ):
            raise TooManyImports(
                f"{settings.IMPORTS_PER_TENANT} imports of the tenant are under way. Wait until one has ended."
            )
        storage_check(tenant_id=repository.tenant_id, more=0)
        made = Import.objects.create(
            tenant_id=repository.tenant_id,
            repository=repository,
            by=by,
            pushed_by=by.username,
            source_host=reference.host,
            source_path=reference.path,
            source_tag=reference.tag,
            source_digest=reference.digest,
            platforms=list(platforms)[:16],
            tag=tag,
            deploy=deploy,
            deploy_with=dict(deploy_with or {}),
            status_since=now(),
            deadline_at=after(settings.IMPORT_WORK_S),
        )
        jobs.enqueue(jobs.IMPORT, made.pk)
        return made


def _move(import_id: int, source: str | tuple[str, ...], target: str, **fields: Any) -> bool:
    """Whether it was this caller that moved it."""
    rows = Import.objects.filter(pk=import_id, status__in=[source] if isinstance(source, str) else source)
    return bool(rows.update(status=target, status_since=now(), **fields))


def import_resolving(*, import_id: int) -> bool:
    """A worker looks up what is to be copied, perhaps once more."""
    return _move(import_id, Import.OPEN, Status.RESOLVING, retry_at=None)


def import_resolved(*, import_id: int, source_digest: str, total: int) -> bool:
    """From now on the tag at the source may name what it likes."""
    return _move(import_id, Status.RESOLVING, Status.COPYING, source_digest=source_digest, total_bytes=total)


def import_progress(*, import_id: int, copied: int) -> bool:
    """Note how far it is. False where it was ended, and the work is to be given up."""
    rows = Import.objects.filter(pk=import_id, status=Status.COPYING, deadline_at__gt=now())
    return bool(rows.update(copied_bytes=copied))


def import_later(*, one: Import, error: BerthError) -> bool:
    """Try again after a while; or end it where it was tried often enough."""
    if one.attempts + 1 >= MOST_ATTEMPTS:
        return import_failed(one=one, error=error)
    wait = 5 * 2**one.attempts
    return _move(one.pk, Import.OPEN, Status.WAITING, attempts=one.attempts + 1, retry_at=after(wait))


@transaction.atomic
def import_done(*, one: Import, digest: str, media_type: str, pushed_at: datetime) -> Version | None:
    """Our registry has it, and the tag names it."""
    if not _move(one.pk, Status.COPYING, Status.DONE, digest=digest, copied_bytes=F("total_bytes")):
        return None
    if one.deploy:
        jobs.enqueue(jobs.DEPLOY_IMPORTED)
    return version_pushed(
        repository=one.repository.name,
        tag=one.tag,
        digest=digest,
        media_type=media_type,
        pushed_by=one.pushed_by,
        pushed_at=pushed_at,
    )


@transaction.atomic
def import_failed(*, one: Import, error: BerthError, status: str = Status.FAILED) -> bool:
    """It has ended, and why. False where it had ended before."""
    if not _move(one.pk, Import.OPEN, status, code=error.code, detail=error.detail[:500]):
        return False
    events.record(
        "import.failed",
        f"{one.source} was not copied to {one.repository.name}:{one.tag}: {error.detail[:300]}",
        level=Event.Level.WARNING,
        tenant_id=one.tenant_id,
        actor=one.pushed_by,
        repository=one.repository.name,
        tag=one.tag,
        reason=error.code,
    )
    return True


def imports_expire(limit: int = 500) -> int:
    """End those whose deadline has passed; whoever still works on one finds its row moved. Returns how many."""
    ended = 0
    late = Import.objects.filter(status__in=Import.OPEN, deadline_at__lte=now())
    for one in late.select_related("repository")[:limit]:
        error = ImportExpired("It took longer than the platform waits. Ask for it again: what was copied stays.")
        ended += import_failed(one=one, error=error, status=Status.EXPIRED)
    return ended


def imports_forget() -> int:
    """Ended ones of long ago. Returns how many."""
    old = now() - timedelta(days=KEPT_DAYS)
    gone, _ = Import.objects.filter(status_since__lt=old).exclude(status__in=Import.OPEN).delete()
    return gone


def imports_to_work_on(limit: int) -> QuerySet[Import]:
    """Those that nobody works on, and whose time has come."""
    due = Q(retry_at=None) | Q(retry_at__lte=now())
    return Import.objects.filter(free(), due, status__in=Import.OPEN).order_by("status_since")[:limit]


def imports_of(repository_name: str) -> QuerySet[Import]:
    """Newest first."""
    return Import.objects.filter(repository__name=repository_name)
