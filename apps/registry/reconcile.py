"""The registry's contents against what its notifications told: a lost notification is found here."""

from __future__ import annotations

import structlog

from apps.core.clock import now
from apps.registry.client import RegistryUnavailable, RepositoryUnreadable, tags_of
from apps.registry.selectors import repositories_to_list
from apps.registry.services.tokens import pull_token
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
