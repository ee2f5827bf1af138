"""Tasks of the platform itself."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from apps.core import throttle
from apps.core.duties import due
from apps.core.retention import events_prune


@shared_task(name="core.prune_events")
def prune_events() -> None:
    with due("events", every_s=3600) as mine:
        if mine:
            events_prune(days=settings.EVENT_DAYS, per_app=settings.EVENTS_PER_APP)
            throttle.prune()
