"""The worker's side of an upload: check the archive in the spool, and push the image in it to the registry.

Everything may be done again: a worker that dies leaves the row and the file, and the next one begins anew; the registry
is asked for each blob whether it has it already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import BinaryIO

import structlog
from django.conf import settings

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.leases import held
from apps.registry import spool
from apps.registry.archives.errors import NotAnArchive
from apps.registry.archives.images import Blob, Plan, examine
from apps.registry.archives.unpacking import Budget, gunzip, packing_of
from apps.registry.client import Push, RegistryUnavailable
from apps.registry.models import Upload
from apps.registry.services.quota import storage_check
from apps.registry.services.tokens import push_token
from apps.registry.services.uploads import (
    NoRoom,
    UploadLost,
    UploadRefused,
    upload_checked,
    upload_done,
    upload_failed,
    upload_progress,
)

log = structlog.get_logger(__name__)
MIB = 1 << 20
_READ = 1 << 20


class _GivenUp(Exception):
    """The row was moved by somebody else, or the worker stops. What is left is another's."""


def upload_work(upload_id: int, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Go on with an upload that was received, as far as it goes. Does nothing to one whose bytes lie elsewhere."""
    upload = Upload.objects.select_related("repository", "by").filter(pk=upload_id).first()
    if upload is None or upload.status not in (Upload.Status.CHECKING, Upload.Status.PUSHING):
        return
    if upload.spool != spool.identity():
        return
    with held(Upload, upload.pk) as mine:
        if mine:
            _Work(upload, stopping).run()


class _Work:
    def __init__(self, upload: Upload, stopping: Callable[[], bool]) -> None:
        self.upload = upload
        self.stopping = stopping
        self.noted = 0.0
        self.pushed: int | None = None

    def run(self) -> None:
        upload = self.upload
        try:
            with self._archive() as file:
                size = file.seek(0, 2)
                plan = examine(file, size, unpacked=settings.UPLOAD_UNPACKED_MB * MIB, pace=self._pace)
                total = sum(blob.member.size for blob in plan.blobs.values())
                # A row that is pushed already was checked by a worker that died since.
                if upload.status == Upload.Status.CHECKING and not upload_checked(
                    upload_id=upload.pk, image_bytes=total
                ):
                    raise _GivenUp
                upload.status = Upload.Status.PUSHING
                pushed_at = self._push(plan)
            root = plan.root
            upload_done(upload=upload, digest=root.digest, media_type=root.media_type, pushed_at=pushed_at)
        except _GivenUp:
            return
        except RegistryUnavailable as error:
            # The sweep tries again until the deadline; what the registry has it keeps.
            log.warning("upload_waits", upload=str(upload.uid), error=error.detail)
            return
        except FileNotFoundError:
            upload_failed(upload=upload, error=UploadLost("The platform has lost the archive. Send it again."))
        except BerthError as error:
            upload_failed(upload=upload, error=error)
        spool.remove(upload.uid)

    def _pace(self, count: int) -> None:
        """Called for each part of the work: ends it where it is not wanted any more, and says how far it is."""
        if self.pushed is not None:
            self.pushed += count
        if time.monotonic() - self.noted < 1:
            return
        if self.stopping():
            raise _GivenUp
        self.noted = time.monotonic()
        if not upload_progress(upload_id=self.upload.pk, status=self.upload.status, pushed=self.pushed):
            raise _GivenUp

    def _archive(self) -> BinaryIO:
        """The tar, unpacked into a file of its own where it came compressed."""
        file = spool.received(self.upload.uid).open("rb")
        packing = packing_of(file.read(8))
        if not packing:
            return file
        with file:
            if packing != "gzip":
                raise NotAnArchive(f"The archive is packed with {packing}. Send it with gzip, or not packed.")
            file.seek(0)
            most = settings.UPLOAD_MAX_MB * MIB
            unpacked = spool.create(spool.unpacked(self.upload.uid))
            try:
                for count, part in enumerate(gunzip(self._parts(file), Budget(most))):
                    if count % 64 == 0 and not spool.has_room(64 * MIB):
                        raise NoRoom("The platform has no room to unpack this archive at the moment. Try again later.")
                    self._pace(0)
                    unpacked.write(part)
                unpacked.flush()
            except BaseException:
                unpacked.close()
                spool.unpacked(self.upload.uid).unlink(missing_ok=True)
                raise
            return unpacked

    @staticmethod
    def _parts(file: BinaryIO) -> Iterator[bytes]:
        while part := file.read(_READ):
            yield part

    def _push(self, plan: Plan) -> datetime:
        """Returns when the tag began to name it, or shortly before: what somebody pushes right after that is newer."""
        upload = self.upload
        with Push(upload.repository.name, self._token) as registry:
            self.pushed = 0
            missing: list[Blob] = []
            for blob in plan.blobs.values():
                if registry.has(blob.digest):
                    self._pace(blob.member.size)
                else:
                    missing.append(blob)
            storage_check(tenant_id=upload.tenant_id, more=sum(blob.member.size for blob in missing))
            for blob in missing:
                registry.blob(blob.digest, blob.member.size, self._paced(plan, blob))
            for manifest in plan.manifests[:-1]:
                registry.manifest(manifest.digest, manifest.media_type, manifest.body)
            root, pushed_at = plan.root, now()
            registry.manifest(upload.tag, root.media_type, root.body)
            return pushed_at

    def _paced(self, plan: Plan, blob: Blob) -> Iterator[bytes]:
        for chunk in plan.chunks(blob):
            self._pace(len(chunk))
            yield chunk

    def _token(self) -> str:
        """Asked for before each request: the sender's rights may have ended, and a token lives five minutes."""
        sender = self.upload.by
        token = push_token(self.upload.repository.name, sender) if sender is not None else None
        if token is None:
            raise UploadRefused("You may not push to this app any more, or it is being deleted.")
        return token


def uploads_clean() -> int:
    """Remove the files of uploads that have ended. Returns of how many.

    The files are listed first: one that is made meanwhile has its row already, and is not among them.
    """
    found = spool.held()
    open_now = set(Upload.objects.filter(uid__in=found, status__in=Upload.OPEN).values_list("uid", flat=True))
    for uid in found - open_now:
        spool.remove(uid)
    return len(found - open_now)
