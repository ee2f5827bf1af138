"""The registry's contents against what its notifications told: a lost notification is found here."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from apps.core.clock import now
from apps.registry.client import RegistryUnavailable, RepositoryUnreadable, purge, tags_of
from apps.registry.selectors import digests_of, repositories_to_list, tokens_until
from apps.registry.services.tokens import pull_token, purge_token
from apps.registry.services.versions import repository_asked, repository_listed

log = structlog.get_logger(__name__)
#: Repositories of one pass, how many are asked about at once, and how long it goes on. Seconds.
BATCH = 400
AT_ONCE = 8
PASS_S = 40.0


def repositories_list() -> int:
    """List those that may have changed, and then those not listed for the longest time. Returns how many; stops where
    the registry does not answer.
    """
    deadline = time.monotonic() + PASS_S
    waiting = repositories_to_list(BATCH)
    done = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="listing") as pool:
        while waiting and time.monotonic() < deadline:
            some, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            asked_at = now()
            answers = [(one, pool.submit(tags_of, one.name, token=pull_token(one.name))) for one in some]
            for repository, answer in answers:
                try:
                    listing = answer.result()
                except RegistryUnavailable as error:
                    # Not noted as asked: it is the first again when the registry is back.
                    log.warning("registry_unlisted", repository=repository.name, error=error.detail)
                    waiting = []
                    continue
                except RepositoryUnreadable as error:
                    # One that can't be listed goes to the end of the line all the same.
                    repository_asked(repository=repository, at=asked_at)
                    log.error("repository_unreadable", repository=repository.name, error=error.detail)
                    continue
                repository_listed(
                    repository=repository, tags=listing.tags, complete=listing.complete, asked_at=asked_at
                )
                repository_asked(repository=repository, at=asked_at)
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
