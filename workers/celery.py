"""The Celery app. Messages are nudges: short-lived, JSON, ids only; the database says what there is to do."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.production")

#: Starting and stopping containers: as slow as an image, an engine or an app. All else is in Celery's default queue.
ENGINES = "engines"
#: Looking at hosts: quick, or as long as a host that hangs lets it be, so by threads of its own.
HOSTS = "hosts"
#: Asking instances how they are, without a pause: a task takes some seconds and is followed by the next.
PROBES = "probes"
#: Carrying images about: minutes each, by a worker that sees the directory in which uploads lie.
TRANSFERS = "transfers"
#: What asks the registry, DNS, or a certificate authority: as long as one that hangs lets it be.
REGISTRY = "registry"
#: What beat sends every other second: quick, and never behind hundreds of apps that all want a pass.
DUTIES = "duties"

app = Celery("berth")


@setup_logging.connect
def _logging(**_: Any) -> None:
    """Django's LOGGING serves; Celery must not put its own handlers over it."""
    import logging.config

    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)


def _configure() -> None:
    from django.conf import settings

    from apps.core import jobs
    from workers.schedule import DUTIES_OFTEN, SCHEDULE

    app.conf.update(
        broker_url=settings.REDIS_URL,
        broker_transport="workers.transport:Transport",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 5},
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # A message is acknowledged before the work: what a killed worker leaves is found by the sweep in seconds,
        # where Redis's visibility timeout would hold it back for an hour (celery/celery#5935).
        task_acks_late=False,
        task_time_limit=300,
        task_soft_time_limit=280,
        # What waits for an engine has workers of its own: an app that is slow to stop, an image that is slow to pull
        # or a host that hangs must not keep the checks and the sweep of everybody else waiting.
        task_routes={
            jobs.RECONCILE_INSTANCE: {"queue": ENGINES},
            jobs.START_INSTANCES: {"queue": ENGINES},
            jobs.OBSERVE_HOST: {"queue": HOSTS},
            jobs.PRUNE_IMAGES: {"queue": HOSTS},
            jobs.PROBE_SHARD: {"queue": PROBES},
            jobs.ORDER_CERTIFICATE: {"queue": REGISTRY},
            jobs.UPLOAD: {"queue": TRANSFERS},
            jobs.IMPORT: {"queue": TRANSFERS},
            jobs.SPOOL_CLEAN: {"queue": TRANSFERS},
            # Asks DNS: as long as a server that hangs lets it be.
            jobs.CHECK_DOMAIN: {"queue": REGISTRY},
            # A name beats a pattern: all the others of the registry's tasks.
            "registry.*": {"queue": REGISTRY},
            **{name: {"queue": DUTIES} for name in DUTIES_OFTEN},
        },
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=5000,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        timezone="UTC",
        beat_schedule=SCHEDULE,
        imports=("workers.tasks.core", "workers.tasks.deployments", "workers.tasks.registry"),
    )


app.steps["worker"].add(DjangoStructLogInitStep)
_configure()
app.set_default()
