"""Taking deleted versions out of the registry: tags first, then manifests that nothing names any more.

Each step may be repeated, by anybody and at any time: what is gone already is no error. What the database does not
know of (a tag whose notification was lost) is looked for in the registry before anything is deleted, and keeps it.
"""

from __future__ import annotations

import time

import structlog

from apps.core.clock import now
from apps.registry.client import Editor, Listing, RegistryUnavailable, RepositoryUnreadable, editing, tags_of
from apps.registry.models import Manifest, Repository
from apps.registry.selectors import (
    has_undescribed,
    manifests_to_delete,
    repositories_to_clean,
    versions_to_delete,
)
from apps.registry.services.deleting import (
    deletions_wait,
    manifest_spared,
    manifest_still_to_go,
    version_removed,
)
from apps.registry.services.manifests import manifest_gone
from apps.registry.services.tokens import cleaning_token

log = structlog.get_logger(__name__)

#: Repositories in one sweep, and how long it goes on. Seconds.
BATCH = 100
BUDGET_S = 60.0
LEAST_S = 20.0


def repositories_clean() -> int:
    """Those with something to delete. Returns how many; stops where the registry does not answer."""
    deadline = time.monotonic() + BUDGET_S
    done = 0
    for repository in repositories_to_clean(BATCH):
        if time.monotonic() >= deadline:
            break
        try:
            done += repository_clean(repository, deadline)
        except RegistryUnavailable as error:
            log.warning("registry_uncleaned", error=error.detail)
            break
        except RepositoryUnreadable as error:
            log.error("repository_uncleaned", repository=repository.name, error=error.detail)
    deletions_wait()
    return done


def repository_clean(repository: Repository, deadline: float) -> bool:
    """As far as it goes now: True once nothing is left to delete. Raises RegistryUnavailable, RepositoryUnreadable."""
    token = cleaning_token(repository.name)
    listing = tags_of(repository.name, token=token, whole=True)
    if not listing.complete:
        # Some tag that was not seen may name what would be deleted.
        raise RepositoryUnreadable("It has more tags than can be looked at: nothing of it is deleted.")
    # Of one with so many tags that listing them took all the time, something is deleted each time.
    deadline = max(deadline, time.monotonic() + LEAST_S)
    with editing(repository.name, token=token) as editor:
        _untag(repository, editor, listing)
        seen: set[int] = set()
        # Deleting an index lets its manifests go too, if nothing else names them.
        while going := [one for one in manifests_to_delete(repository) if one.pk not in seen]:
            if has_undescribed(repository):
                # One of those may be an index that names it.
                return False
            for manifest in going:
                if time.monotonic() >= deadline:
                    return False
                seen.add(manifest.pk)
                _delete(editor, manifest, listing)
    _ended(repository, listing)
    return not versions_to_delete(repository)


def _untag(repository: Repository, editor: Editor, listing: Listing) -> None:
    """Tags of manifests that stay. Those of the others go with them."""
    going = {one.digest for one in manifests_to_delete(repository)}
    for version in versions_to_delete(repository):
        named = listing.tags.get(version.tag)
        if named == version.digest and version.digest not in going:
            editor.untag(version.tag, version.digest)
            del listing.tags[version.tag]
        elif named is not None and named != version.digest and editor.is_mark(named):
            editor.delete(named)
            del listing.tags[version.tag]


def _delete(editor: Editor, manifest: Manifest, listing: Listing) -> None:
    tags = {tag for tag, digest in listing.tags.items() if digest == manifest.digest}
    leaving = {one.tag for one in versions_to_delete(manifest.repository).filter(digest=manifest.digest)}
    if tags - leaving:
        # Pushed, and we were not told yet.
        manifest_spared(manifest=manifest)
        for tag in tags & leaving:
            editor.untag(tag, manifest.digest)
            del listing.tags[tag]
        return
    if not manifest_still_to_go(manifest=manifest):
        return
    asked_at = now()
    editor.delete(manifest.digest)
    for tag in tags:
        del listing.tags[tag]
    manifest_gone(manifest=manifest, asked_at=asked_at)


def _ended(repository: Repository, listing: Listing) -> None:
    for version in versions_to_delete(repository):
        if listing.tags.get(version.tag) != version.digest:
            version_removed(version=version)
