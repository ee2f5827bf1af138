"""Tasks of the registry."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down

from apps.core import jobs
from apps.core.duties import due
from apps.core.errors import PlatformError
from apps.registry.cleaning import repositories_clean
from apps.registry.describing import manifest_describe, manifests_describe
from apps.registry.importing import import_work
from apps.registry.reconcile import repositories_list
from apps.registry.services.imports import imports_expire, imports_forget, imports_to_work_on
from apps.registry.services.quota import storage_count, storage_sweep
from apps.registry.services.uploads import uploads_expire, uploads_forget, uploads_to_work_on
from apps.registry.uploading import upload_work, uploads_clean

#: Tenants in one sweep, which comes every 20 seconds; what changed is counted by a nudge of its own.
TENANTS = 200
UPLOADS_LIMIT = 100
_stopping = threading.Event()


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """What takes minutes must not keep a worker from stopping: another goes on with it."""
    _stopping.set()


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


@shared_task(name=jobs.UPLOAD)
def upload(upload_id: int) -> None:
    upload_work(upload_id, stopping=_stopping.is_set)


@shared_task(name="registry.uploads")
def uploads() -> None:
    """Ends what is late, and finds what no message announced."""
    with due("uploads", every_s=2) as mine:
        if mine:
            uploads_expire()
            for one in uploads_to_work_on(UPLOADS_LIMIT):
                jobs.enqueue(jobs.UPLOAD, one.pk)
            jobs.enqueue(jobs.SPOOL_CLEAN)


@shared_task(name=jobs.SPOOL_CLEAN)
def spool_clean() -> None:
    """By the transfers worker, which sees the spool."""
    uploads_clean()


@shared_task(name="registry.uploads_forget")
def uploads_forgotten() -> None:
    with due("uploads_forget", every_s=3600) as mine:
        if mine:
            uploads_forget()
            imports_forget()


@shared_task(name=jobs.IMPORT, soft_time_limit=3600, time_limit=3660)
def import_image(import_id: int) -> None:
    """As long as a large image takes; it ends itself at the row's deadline, and where the worker stops."""
    import_work(import_id, stopping=_stopping.is_set)


@shared_task(name="registry.imports")
def imports() -> None:
    """Ends what is late, and finds what no message announced."""
    with due("imports", every_s=2) as mine:
        if mine:
            imports_expire()
            for one in imports_to_work_on(UPLOADS_LIMIT):
                jobs.enqueue(jobs.IMPORT, one.pk)
