"""Tasks of the registry."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down

from apps.core import jobs
from apps.core.duties import due
from apps.registry.reconcile import repositories_list
from apps.registry.services.uploads import uploads_expire, uploads_forget, uploads_to_work_on
from apps.registry.uploading import upload_work, uploads_clean

UPLOADS_LIMIT = 100
_stopping = threading.Event()


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """What takes minutes must not keep a worker from stopping: another goes on with it."""
    _stopping.set()


@shared_task(name="registry.list")
def list_repositories() -> None:
    with due("registry", every_s=10) as mine:
        if mine:
            repositories_list()


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
