"""The registry's storage, collected with what the database knows of it: tokens that are about, and what is counted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

from apps.core.clock import now
from apps.registry.selectors import digests_counted, is_quiet, manifests_known
from apps.registry.services.manifests import manifest_pushed
from apps.registry.services.quota import loose_noted
from apps.registry.storage.collect import Collector, Report, Rules


class UnfitRegistry(Exception):
    """Its storage can't be collected beside pushes as it is configured."""


def root_of(config: Path) -> Path:
    """Where the registry of this configuration stores. Raises UnfitRegistry.

    A registry that remembers blobs answers for what is deleted: a push would leave it out, and be accepted without it.
    """
    try:
        read = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnfitRegistry(f"{config} can't be read: {error}") from None
    storage = read.get("storage") if isinstance(read, dict) else None
    if not isinstance(storage, dict) or not isinstance(storage.get("filesystem"), dict):
        raise UnfitRegistry(f"{config} has no storage.filesystem: only a directory can be collected.")
    if storage.get("cache"):
        raise UnfitRegistry(f"{config} sets storage.cache. Take it out: it remembers blobs that are gone.")
    root = storage["filesystem"].get("rootdirectory", "/var/lib/registry")
    return Path(str(root))


def collect(root: Path, *, rules: Rules, dry_run: bool = False) -> Report:
    """One collection. Raises Busy, NoStorage, OSError; and what the database raises: then nothing more is moved."""
    report = Collector(root, quiet=is_quiet, counted=digests_counted, found=_found, rules=rules).run(dry_run=dry_run)
    loose_noted(loose=report.loose)
    return report


def _found(repository: str, revisions: Mapping[str, float]) -> None:
    """What the registry has and nobody told: manifests that were pushed by their digest are in no listing."""
    for digest in revisions.keys() - manifests_known(repository):
        manifest_pushed(
            repository=repository,
            digest=f"sha256:{digest}",
            media_type="",
            pushed_by="",
            pushed_at=min(datetime.fromtimestamp(revisions[digest], UTC), now()),
        )
