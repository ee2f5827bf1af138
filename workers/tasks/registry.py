"""Tasks of the registry."""

from __future__ import annotations

from celery import shared_task

from apps.core.duties import due
from apps.registry.reconcile import repositories_list


@shared_task(name="registry.list")
def list_repositories() -> None:
    with due("registry", every_s=10) as mine:
        if mine:
            repositories_list()
