"""Comparing the registry with what its notifications told."""

from __future__ import annotations

import structlog
from celery import shared_task

from apps.core.clock import now
from apps.registry.client import RegistryUnavailable, tags_of
from apps.registry.selectors import repositories_to_list
from apps.registry.services.versions import repository_listed

log = structlog.get_logger(__name__)
BATCH = 200


@shared_task(name="registry.list")
def list_repositories() -> None:
    for repository in repositories_to_list(BATCH):
        asked_at = now()
        try:
            tags = tags_of(repository.name)
        except RegistryUnavailable as error:
            log.warning("registry_unlisted", repository=repository.name, error=error.detail)
            return
        repository_listed(repository=repository, tags=tags, asked_at=asked_at)
