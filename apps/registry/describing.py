"""Reading what was pushed: the kind, size, platforms and parts of each manifest, from the registry itself.

A push only notes that there is something. It is read soon after, by a nudge; what no nudge announced, or could not be
read, the sweep finds by ``described_at`` and ``describe_after``. Whoever reads a manifest moves ``describe_after``
first, so that others leave it alone until then; a reader that died is followed by another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog

from apps.core.clock import now
from apps.registry.client import Reader, RegistryUnavailable, RepositoryUnreadable, reading
from apps.registry.content import Content, Named, is_nowhere, read_config, read_manifest
from apps.registry.models import Manifest, Part, Repository
from apps.registry.selectors import manifests_to_describe, sizes_known
from apps.registry.services.descriptions import (
    Description,
    PartOf,
    describe_claimed,
    describe_failed,
    manifest_described,
)
from apps.registry.services.manifests import manifest_gone
from apps.registry.services.tokens import pull_token

log = structlog.get_logger(__name__)

#: Bytes of an image's configuration. Larger ones exist nowhere but in tests of this; read, JSON takes up to 25 times
#: as much memory.
MAX_CONFIG = 1024 * 1024
#: So many in one sweep, and for so long. Seconds.
BATCH = 200
BUDGET_S = 20.0


def manifests_describe() -> int:
    """Read those whose time has come. Returns how many; stops where the registry does not answer."""
    deadline = time.monotonic() + BUDGET_S
    done = 0
    for pk in manifests_to_describe(BATCH):
        if time.monotonic() >= deadline:
            break
        try:
            done += manifest_describe(pk)
        except RegistryUnavailable as error:
            log.warning("registry_undescribed", error=error.detail)
            break
    return done


def manifest_describe(manifest_id: int) -> bool:
    """Read one, unless somebody is at it, or did. Raises RegistryUnavailable."""
    manifest = describe_claimed(manifest_id=manifest_id)
    if manifest is None:
        return False
    asked_at = now()
    name = manifest.repository.name
    try:
        with reading(name, token=pull_token(name)) as reader:
            description = _description(reader, manifest)
    except RegistryUnavailable:
        describe_failed(manifest=manifest, away=True)
        raise
    except RepositoryUnreadable as error:
        describe_failed(manifest=manifest, away=False)
        log.warning("manifest_unreadable", repository=name, digest=manifest.digest, error=error.detail)
        return False
    if description is None:
        return manifest_gone(manifest=manifest, asked_at=asked_at)
    return manifest_described(manifest=manifest, description=description)


def _description(reader: Reader, manifest: Manifest) -> Description | None:
    """None where the registry has it no more. Raises RepositoryUnreadable."""
    found = reader.manifest(manifest.digest)
    if found is None:
        return None
    body, media_type = found
    content = read_manifest(body, media_type)
    platforms, shown = _config(reader, content)
    kind = content.kind
    if kind == Manifest.Kind.IMAGE and is_nowhere(platforms[0] if platforms else None):
        kind, platforms, shown = Manifest.Kind.ARTIFACT, [], {}
    return Description(
        kind=kind,
        media_type=content.media_type,
        own_bytes=len(body),
        parts=_parts(reader, manifest.repository, content.parts),
        platforms=platforms,
        config=shown,
    )


def _config(reader: Reader, content: Content) -> tuple[list[Mapping[str, str]], dict[str, Any]]:
    if content.kind == Manifest.Kind.INDEX:
        return [one.platform for one in content.parts if one.platform and not one.aside], {}
    if content.kind != Manifest.Kind.IMAGE:
        return [], {}
    size = reader.blob_size(content.config)
    if size is None or size > MAX_CONFIG:
        # It is none that an engine would start; what can't be seen is not judged here.
        return [], {}
    body = reader.blob(content.config, most=MAX_CONFIG)
    config = read_config(body or b"")
    return [config.platform] if config.platform else [], config.shown


def _parts(reader: Reader, repository: Repository, named: tuple[Named, ...]) -> list[PartOf]:
    """With the sizes that the registry has: the manifest's own word for them counts towards a quota, so is not taken.

    A blob's size never changes, so what is known of another manifest of the repository is not asked again.
    """
    known = sizes_known(repository, (one.digest for one in named))
    parts = []
    for one in named:
        size = known.get(one.digest)
        if size is None:
            ask = reader.manifest_size if one.kind == Part.Kind.MANIFEST else reader.blob_size
            # What is not stored (a foreign layer) takes no room.
            size = ask(one.digest) or 0
        parts.append(PartOf(one.digest, one.kind, size))
    return parts
