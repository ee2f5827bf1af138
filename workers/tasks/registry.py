"""Tasks of the registry."""

from __future__ import annotations

from celery import shared_task

from apps.registry.reconcile import repositories_list


@shared_task(name="registry.list")
def list_repositories() -> None:
    repositories_list()
