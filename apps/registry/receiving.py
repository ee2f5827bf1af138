"""The portal's side of an upload: bytes from a connection into the spool, a part at a time."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from apps.core.errors import BerthError
from apps.core.leases import held
from apps.registry import spool
from apps.registry.archives.errors import NotAnArchive
from apps.registry.models import Upload
from apps.registry.services.uploads import (
    NoRoom,
    UploadExpired,
    UploadInterrupted,
    size_check,
    upload_failed,
    upload_progress,
    upload_received,
)

#: How often it is noted how far it is, and asked whether it goes on. Seconds.
NOTED_S = 2.0
#: How often it is asked whether the disk has room for as much again.
ROOM_EVERY = 64 << 20


class SenderGone(Exception):
    """The connection ended, or nothing came for too long."""


def upload_receive(*, upload: Upload, read: Callable[[], bytes], rest: Callable[[], None]) -> Upload:
    """Write what ``read`` gives, until it gives nothing, and hand it to a worker.

    ``read`` raises SenderGone; ``rest`` gives back the database's connection, which a slow sender must not keep. On any
    error the upload has ended and nothing of it is left. Raises UploadTooLarge, UploadInterrupted, UploadExpired,
    NoRoom, NotAnArchive.
    """
    try:
        with held(Upload, upload.pk) as mine:
            if not mine:
                raise UploadInterrupted("Somebody else sends to this upload.")
            rest()
            size = _received(upload, read, rest)
        if not upload_received(upload=upload, size=size):
            raise UploadExpired("It took longer than the platform waits. Send it again.")
    except BaseException as error:
        upload_failed(upload=upload, error=_named(error))
        spool.remove(upload.uid)
        if isinstance(error, BerthError | SenderGone | OSError):
            raise _named(error) from error
        raise
    upload.refresh_from_db()
    return upload


def _named(error: BaseException) -> BerthError:
    if isinstance(error, BerthError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_room()
    return UploadInterrupted("The connection ended before the archive was whole. Send it again.")


def _no_room() -> NoRoom:
    return NoRoom("The platform has no room for this archive at the moment. Try again later, or tell its operators.")


def _received(upload: Upload, read: Callable[[], bytes], rest: Callable[[], None]) -> int:
    size, noted, room_at = 0, time.monotonic(), 0
    if not spool.has_room(upload.declared_bytes or 0):
        raise _no_room()
    with spool.create(spool.received(upload.uid)) as file:
        while part := read():
            size += len(part)
            size_check(size)
            if size >= room_at:
                if not spool.has_room(ROOM_EVERY):
                    raise _no_room()
                room_at = size + ROOM_EVERY
            file.write(part)
            if time.monotonic() - noted >= NOTED_S:
                noted = time.monotonic()
                on = upload_progress(upload_id=upload.pk, status=Upload.Status.RECEIVING, received=size)
                rest()
                if not on:
                    raise UploadExpired("It took longer than the platform waits. Send it again.")
    if not size:
        raise NotAnArchive("Nothing was sent. Send the archive as the body of the request.")
    if upload.declared_bytes is not None and size != upload.declared_bytes:
        raise UploadInterrupted("Less was sent than was announced. Send it again.")
    return size
