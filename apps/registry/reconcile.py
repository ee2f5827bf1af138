"""The registry's contents against what its notifications told: a lost notification is found here."""

from __future__ import annotations

import structlog

from apps.core.clock import now
from apps.registry.client import RegistryUnavailable, RepositoryUnreadable, purge, tags_of
from apps.registry.selectors import digests_of, repositories_to_list, tokens_until
from apps.registry.services.tokens import pull_token, purge_token
from apps.registry.services.versions import repository_asked, repository_listed

log = structlog.get_logger(__name__)
BATCH = 200


def repositories_list() -> int:
    """List those not listed for the longest time. Returns how many; stops where the registry does not answer."""
    done = 0
    for repository in repositories_to_list(BATCH):
        asked_at = now()
        # Before it is asked: one that can't be listed goes to the end of the line all the same.
        repository_asked(repository=repository)
        try:
            listing = tags_of(repository.name, token=pull_token(repository.name))
        except RegistryUnavailable as error:
            log.warning("registry_unlisted", repository=repository.name, error=error.detail)
            break
        except RepositoryUnreadable as error:
            log.error("repository_unreadable", repository=repository.name, error=error.detail)
            continue
        repository_listed(repository=repository, tags=listing.tags, complete=listing.complete, asked_at=asked_at)
        done += 1
    return done


def repository_purge(name: str) -> str:
    """Take what the registry holds of a repository that is being deleted. Empty once nothing is left, else what is
    waited for, in words.

    Not before the last token that somebody has for it ended: with that one could push into, or pull from, the next
    repository of this name. Raises RegistryUnavailable, RepositoryUnreadable, RegistryUnconfigured.
    """
    until = tokens_until(name)
    if until is not None and until > now():
        return "the last sign-in to its repository to end"
    if not purge(name, digests_of(name), token=purge_token(name)):
        return "the registry to delete its images"
    return ""
