"""Where the bytes of uploads lie until the registry has them: one directory, files named by the uploads' ids.

Nothing that anybody typed becomes part of a path. The directory has an id of its own, so that a worker of another
machine, which has another directory, knows that it sees nothing of an upload, instead of finding its file missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from django.conf import settings

#: What is left free of the file system, whatever is sent: a database may lie there too.
RESERVE = 1 << 30
_ID = "spool-id"


def directory() -> Path:
    """Made where it is missing, for its owner only."""
    path = Path(settings.UPLOAD_DIRECTORY)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def identity() -> UUID:
    """The directory's id; the first who asks makes it."""
    path = directory() / _ID
    with contextlib.suppress(FileNotFoundError):
        return UUID(path.read_text().strip())
    draft = path.with_name(f"{_ID}.{uuid4().hex}")
    draft.write_text(f"{uuid4()}\n")
    try:
        # Unlike a rename this fails where another process was first.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return UUID(path.read_text().strip())


def received(uid: UUID) -> Path:
    """What was sent."""
    return directory() / f"{uid.hex}.upload"


def unpacked(uid: UUID) -> Path:
    """The tar that was in it, where it was compressed."""
    return directory() / f"{uid.hex}.tar"


def create(path: Path) -> BinaryIO:
    """A new file, readable by its owner only; what was there before is gone."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w+b")


def has_room(count: int) -> bool:
    """Whether so many bytes more may be written."""
    return shutil.disk_usage(directory()).free - count >= RESERVE


def remove(uid: UUID) -> None:
    for path in (received(uid), unpacked(uid)):
        path.unlink(missing_ok=True)


def held() -> set[UUID]:
    """The uploads that have files here."""
    found = set()
    for path in directory().iterdir():
        with contextlib.suppress(ValueError):
            if path.suffix in (".upload", ".tar"):
                found.add(UUID(hex=path.stem))
    return found
