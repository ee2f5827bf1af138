"""The worker's side of an import: look the image up at its source, and copy it, blob by blob, to our registry.

Everything may be done again: a worker that dies leaves the row; the next one finds the digest that was looked up, asks
our registry for each blob, and copies what is missing. Hosts never pull from there themselves: their engines would go
wherever a tenant's name leads, past the guard (docs/decisions/0030-imports.md).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.conf import settings

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.guarded import AddressUnreachable
from apps.core.leases import held
from apps.registry.client import Push, RegistryUnavailable
from apps.registry.content import IMAGES, INDEXES, Content, read_manifest
from apps.registry.foreign import Foreign, Found, SourceInvalid, foreign
from apps.registry.models import Import, Manifest
from apps.registry.references import Reference
from apps.registry.services.external import credential_for
from apps.registry.services.imports import (
    ImportRefused,
    import_done,
    import_failed,
    import_later,
    import_progress,
    import_resolved,
    import_resolving,
)
from apps.registry.services.quota import storage_check
from apps.registry.services.tokens import push_token

log = structlog.get_logger(__name__)
MIB = 1 << 20
#: Images of one index, and blobs of one image; real ones have far less.
MOST_IMAGES = 16
MOST_BLOBS = 512


class _GivenUp(Exception):
    """The row was moved by somebody else, or the worker stops. What is left is another's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be copied: blobs (digest -> bytes), manifests below the root, and the root, which gets the tag."""

    blobs: dict[str, int]
    inner: tuple[Found, ...]
    root: Found

    @property
    def total(self) -> int:
        return sum(self.blobs.values())


def import_work(import_id: int, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Go on with an import as far as it goes."""
    with held(Import, import_id) as mine:
        if not mine:
            return
        one = Import.objects.select_related("repository", "by").filter(pk=import_id).first()
        waits = one is not None and one.retry_at is not None and one.retry_at > now()
        if one is None or one.status not in Import.OPEN or waits or one.deadline_at <= now():
            return
        _Work(one, stopping).run()


class _Work:
    def __init__(self, one: Import, stopping: Callable[[], bool]) -> None:
        self.one = one
        self.stopping = stopping
        self.copied = 0
        self.noted = 0.0

    def run(self) -> None:
        one = self.one
        try:
            if not import_resolving(import_id=one.pk):
                return
            source = Reference(one.source_host, one.source_path, one.source_tag, one.source_digest)
            credential = credential_for(tenant_id=one.tenant_id, host=one.source_host)
            left = (one.deadline_at - now()).total_seconds()
            with foreign(source, credential, total_s=min(left, 60.0)) as registry:
                first = registry.manifest(source.digest or source.tag)
                plan = plan_of(registry, first, one.platforms)
            if plan.total > settings.IMPORT_MAX_MB * MIB:
                raise SourceInvalid(f"The image has more than {settings.IMPORT_MAX_MB} MiB.")
            if not import_resolved(import_id=one.pk, source_digest=first.digest, total=plan.total):
                return
            with foreign(source, credential, total_s=left) as registry:
                pushed_at = self._copy(registry, plan)
            root = plan.root
            import_done(one=one, digest=root.digest, media_type=root.media_type, pushed_at=pushed_at)
        except _GivenUp:
            return
        except (AddressUnreachable, RegistryUnavailable) as error:
            log.warning("import_waits", uid=str(one.uid), code=error.code, error=error.detail)
            import_later(one=one, error=error)
        except BerthError as error:
            import_failed(one=one, error=error)

    def _copy(self, source: Foreign, plan: Plan) -> datetime:
        """Returns when the tag began to name it, or shortly before: what somebody pushes right after that is newer."""
        one = self.one
        with Push(one.repository.name, self._token) as registry:
            missing = {}
            for digest, size in plan.blobs.items():
                if registry.has(digest):
                    self._pace(size)
                else:
                    missing[digest] = size
            storage_check(tenant_id=one.tenant_id, more=sum(missing.values()))
            for digest, size in missing.items():
                registry.blob(digest, size, self._paced(source.blob(digest, size)))
            for inner in plan.inner:
                registry.manifest(inner.digest, inner.media_type, inner.body)
            root, pushed_at = plan.root, now()
            registry.manifest(one.tag, root.media_type, root.body)
            return pushed_at

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._pace(len(chunk))
            yield chunk

    def _pace(self, count: int) -> None:
        self.copied += count
        if time.monotonic() - self.noted < 1:
            return
        self.noted = time.monotonic()
        if self.stopping() or not import_progress(import_id=self.one.pk, copied=self.copied):
            raise _GivenUp

    def _token(self) -> str:
        """Asked for before each request: the asker's rights may have ended, and a token lives five minutes."""
        by = self.one.by
        token = push_token(self.one.repository.name, by) if by is not None else None
        if token is None:
            raise ImportRefused("You may not push to this app any more, or it is being deleted.")
        return token


def plan_of(registry: Foreign, first: Found, platforms: list[str]) -> Plan:
    """Of an index only the images of these platforms: one becomes the version itself, several a new index.

    Raises SourceInvalid.
    """
    content = read_manifest(first.body, first.media_type)
    if content.kind != Manifest.Kind.INDEX:
        return Plan(_blobs(registry, first, content), (), _typed(first, content))
    entries = _entries(first, content, platforms)
    images = tuple(_image(registry, str(entry["digest"])) for entry in entries)
    blobs: dict[str, int] = {}
    for image in images:
        blobs |= _blobs(registry, image, read_manifest(image.body, image.media_type))
    if len(images) == 1:
        return Plan(blobs, (), images[0])
    return Plan(blobs, images, _index(entries, _typed(first, content).media_type))


def _image(registry: Foreign, digest: str) -> Found:
    found = registry.manifest(digest)
    return _typed(found, read_manifest(found.body, found.media_type))


def _typed(found: Found, content: Content) -> Found:
    """With the media type that it says of itself, if that is one of those that are copied."""
    if content.media_type not in (*INDEXES, *IMAGES):
        raise SourceInvalid("What the registry has is no image of a kind that is known here.")
    return Found(found.digest, content.media_type, found.body)


def _entries(first: Found, content: Content, platforms: list[str]) -> list[dict[str, object]]:
    """Those of an index that are copied: the first for each platform."""
    raw = {
        one["digest"]: one for one in json.loads(first.body)["manifests"] if isinstance(one, dict) and "digest" in one
    }
    chosen: dict[str, dict[str, object]] = {}
    for named in content.parts:
        if named.aside or named.platform is None:
            continue
        place = f"{named.platform['os']}/{named.platform['architecture']}"
        if not platforms or place in platforms:
            chosen.setdefault(place if platforms else named.digest, raw[named.digest])
    if not chosen:
        wanted = ", ".join(platforms) or "any platform"
        raise SourceInvalid(f"The image is not there for {wanted}.")
    if len(chosen) > MOST_IMAGES:
        raise SourceInvalid("The index has more images than one has.")
    return list(chosen.values())


def _index(entries: list[dict[str, object]], media_type: str) -> Found:
    kept = [{name: one[name] for name in ("mediaType", "digest", "size", "platform") if name in one} for one in entries]
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": kept}, sort_keys=True).encode()
    return Found(f"sha256:{hashlib.sha256(body).hexdigest()}", media_type, body)


def _blobs(registry: Foreign, image: Found, content: Content) -> dict[str, int]:
    """Digest -> bytes, as the manifest says; whether that is so shows when they are copied."""
    if content.kind != Manifest.Kind.IMAGE:
        raise SourceInvalid("What the registry has is no image.")
    if len(content.parts) > MOST_BLOBS:
        raise SourceInvalid("The image has more layers than one has.")
    if any(one.remote for one in content.parts):
        raise SourceInvalid("The image has layers that are elsewhere.")
    raw = json.loads(image.body)
    sizes: dict[str, int] = {}
    for named in [raw["config"], *(raw.get("layers") or ())]:
        size = named.get("size") if isinstance(named, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 1 << 44:
            raise SourceInvalid("The image's manifest does not say how large its parts are.")
        sizes[str(named["digest"])] = size
    if set(sizes) != {one.digest for one in content.parts}:
        raise SourceInvalid("The image's manifest names parts by digests that are none.")
    return sizes
