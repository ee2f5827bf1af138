"""Archives that are sent instead of pushed: from the first byte until the registry has the image, or why it has not.

The status changes by compare-and-swap, and each status has a deadline. Bytes are moved by apps.registry.receiving (in
the portal) and apps.registry.uploading (in a worker), outside of transactions.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.errors import BerthError, Conflict, Invalid, PlatformError, Refused
from apps.core.leases import free
from apps.core.models import Event
from apps.registry.models import Repository, Upload, Version
from apps.registry.models.repositories import TAG
from apps.registry.services.quota import storage_check
from apps.registry.services.tokens import PushRefused, push_refusal
from apps.registry.services.versions import version_pushed
from apps.tenants.models import Quota, User
from apps.tenants.permissions import Action, require_images

Status = Upload.Status
MIB = 1 << 20
#: So long a connection may be given up before the row says so: its process may be about to. Seconds.
LOST_S = 5.0
#: How long ended uploads are shown.
KEPT_DAYS = 30


class TagInvalid(Invalid):
    code = "uploads.tag_invalid"


class UploadTooLarge(Refused):
    code = "uploads.too_large"
    status = 413


class TooManyUploads(Refused):
    code = "uploads.too_many"
    status = 429


class UploadRefused(Conflict):
    """Its sender may not push any more, or the repository goes."""

    code = "uploads.not_allowed"


class UploadInterrupted(Invalid):
    code = "uploads.interrupted"


class UploadLost(PlatformError):
    code = "uploads.lost"


class UploadExpired(PlatformError):
    code = "uploads.expired"


class NoRoom(PlatformError):
    code = "uploads.no_room"


def deadline_of(status: str) -> datetime:
    seconds = settings.UPLOAD_RECEIVE_S if status == Status.RECEIVING else settings.UPLOAD_WORK_S
    return now() + timedelta(seconds=seconds)


def size_check(size: int | None) -> None:
    """Raises UploadTooLarge."""
    if size is not None and size > settings.UPLOAD_MAX_MB * MIB:
        raise UploadTooLarge(
            f"An archive may have {settings.UPLOAD_MAX_MB} MiB at most.", limit_mb=settings.UPLOAD_MAX_MB
        )


def upload_begin(*, repository: Repository, tag: str, by: User, declared: int | None, spool: UUID) -> Upload:
    """Somebody is about to send an archive of ``declared`` bytes (None: not said).

    Raises Denied, PushRefused, TagInvalid, UploadTooLarge, TooManyUploads, QuotaExceeded, UploadRefused.
    """
    require_images(by, Action.PUSH, tenant_id=repository.tenant_id, slug=repository.name)
    if not re.fullmatch(TAG, tag):
        raise TagInvalid("tag must be a version's name: letters, digits, '_', '.' and '-', 128 at most.", field="tag")
    if refusal := push_refusal(repository):
        raise PushRefused(refusal)
    size_check(declared)
    with transaction.atomic():
        # The quota row's lock makes the count exact while others begin too.
        Quota.objects.select_for_update().get(tenant_id=repository.tenant_id)
        if Repository.objects.filter(pk=repository.pk, deleting_at=None).first() is None:
            raise UploadRefused("The app is being deleted: nothing can be pushed to it any more.")
        open_now = Upload.objects.filter(tenant_id=repository.tenant_id, status__in=Upload.OPEN)
        if open_now.count() >= settings.UPLOADS_PER_TENANT:
            raise TooManyUploads(
                f"{settings.UPLOADS_PER_TENANT} uploads of the tenant are under way. Wait until one has ended."
            )
        storage_check(tenant_id=repository.tenant_id, more=declared or 0)
        return Upload.objects.create(
            tenant_id=repository.tenant_id,
            repository=repository,
            by=by,
            pushed_by=by.username,
            tag=tag,
            status=Status.RECEIVING,
            status_since=now(),
            deadline_at=deadline_of(Status.RECEIVING),
            spool=spool,
            declared_bytes=declared,
        )


def _move(upload_id: int, source: str | tuple[str, ...], target: str, **fields: Any) -> bool:
    """Whether it was this caller that moved it."""
    rows = Upload.objects.filter(pk=upload_id, status__in=[source] if isinstance(source, str) else source)
    return bool(rows.update(status=target, status_since=now(), deadline_at=deadline_of(target), **fields))


def upload_received(*, upload: Upload, size: int) -> bool:
    """All of it is in the spool: a worker goes on. False where it was given up meanwhile."""
    if not _move(upload.pk, Status.RECEIVING, Status.CHECKING, received_bytes=size):
        return False
    jobs.enqueue(jobs.UPLOAD, upload.pk)
    return True


def upload_checked(*, upload_id: int, image_bytes: int) -> bool:
    """The archive holds an image that may be pushed."""
    return _move(upload_id, Status.CHECKING, Status.PUSHING, image_bytes=image_bytes)


def upload_progress(*, upload_id: int, status: str, pushed: int | None = None, received: int | None = None) -> bool:
    """Note how far it is. False where it is not in that status any more, and the work is to be given up."""
    fields: dict[str, Any] = {}
    if pushed is not None:
        fields["pushed_bytes"] = pushed
    if received is not None:
        fields["received_bytes"] = received
    rows = Upload.objects.filter(pk=upload_id, status=status, deadline_at__gt=now())
    return bool(rows.update(**fields)) if fields else rows.exists()


@transaction.atomic
def upload_done(*, upload: Upload, digest: str, media_type: str, pushed_at: datetime) -> Version | None:
    """The registry has it, and the tag names it: the version is there without waiting for the registry's word."""
    if not _move(upload.pk, Status.PUSHING, Status.DONE, digest=digest, pushed_bytes=F("image_bytes")):
        return None
    return version_pushed(
        repository=upload.repository.name,
        tag=upload.tag,
        digest=digest,
        media_type=media_type,
        pushed_by=upload.pushed_by,
        pushed_at=pushed_at,
    )


@transaction.atomic
def upload_failed(*, upload: Upload, error: BerthError, status: str = Status.FAILED) -> bool:
    """It has ended, and why. False where it had ended before."""
    if not _move(upload.pk, Upload.OPEN, status, code=error.code, detail=error.detail[:500]):
        return False
    events.record(
        "upload.failed",
        f"The archive for {upload.repository.name}:{upload.tag} was not pushed: {error.detail[:300]}",
        level=Event.Level.WARNING,
        tenant_id=upload.tenant_id,
        actor=upload.pushed_by,
        repository=upload.repository.name,
        tag=upload.tag,
        reason=error.code,
    )
    return True


def uploads_expire(limit: int = 500) -> int:
    """End those whose deadline has passed, and those that nobody receives any more. Returns how many.

    Whoever still works on one finds its row moved, and stops.
    """
    at = now()
    late = Q(status__in=Upload.OPEN, deadline_at__lte=at)
    lost = Q(free(at - timedelta(seconds=LOST_S)), status=Status.RECEIVING, status_since__lt=at - timedelta(seconds=30))
    ended = 0
    for upload in Upload.objects.filter(late | lost).select_related("repository")[:limit]:
        error: BerthError
        if upload.deadline_at <= at:
            error = UploadExpired("It took longer than the platform waits. Send it again.")
            ended += upload_failed(upload=upload, error=error, status=Status.EXPIRED)
        else:
            error = UploadInterrupted("The connection ended before the archive was whole. Send it again.")
            ended += upload_failed(upload=upload, error=error)
    return ended


def uploads_forget() -> int:
    """Ended ones of long ago. Returns how many."""
    old = now() - timedelta(days=KEPT_DAYS)
    gone, _ = Upload.objects.filter(status_since__lt=old).exclude(status__in=Upload.OPEN).delete()
    return gone


def uploads_to_work_on(limit: int) -> QuerySet[Upload]:
    """Received ones that nobody works on."""
    rows = Upload.objects.filter(free(), status__in=(Status.CHECKING, Status.PUSHING))
    return rows.order_by("status_since")[:limit]
