"""Tasks of the registry."""

from __future__ import annotations

from celery import shared_task

from apps.core import jobs
from apps.core.duties import due
from apps.core.errors import PlatformError
from apps.registry.cleaning import repositories_clean
from apps.registry.describing import manifest_describe, manifests_describe
from apps.registry.reconcile import repositories_list
from apps.registry.services.quota import storage_count, storage_sweep

#: Tenants in one sweep, which comes every 20 seconds; what changed is counted by a nudge of its own.
TENANTS = 200


@shared_task(name="registry.list")
def list_repositories() -> None:
    with due("registry", every_s=5) as mine:
        if mine:
            repositories_list()


@shared_task(name=jobs.DESCRIBE_MANIFEST, throws=(PlatformError,))
def describe_manifest(manifest_id: int) -> None:
    manifest_describe(manifest_id)


@shared_task(name="registry.describe_due")
def describe_due() -> None:
    with due("registry_describe", every_s=2) as mine:
        if mine:
            manifests_describe()


@shared_task(name=jobs.CLEAN_REPOSITORY)
def clean_repositories(repository_id: int = 0) -> None:
    """Whichever announced it: all that have something to delete, by one worker at a time."""
    with due("registry_clean", every_s=0) as mine:
        if mine:
            repositories_clean()


@shared_task(name=jobs.COUNT_STORAGE)
def count_storage(tenant_id: int) -> None:
    storage_count(tenant_id=tenant_id)


@shared_task(name="registry.storage")
def storage() -> None:
    with due("registry_storage", every_s=15) as mine:
        if mine:
            storage_sweep(limit=TENANTS)
