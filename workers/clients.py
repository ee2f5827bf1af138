"""The connections of one worker process: made when first needed, and anew in each forked child."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from apps.deployments.reconcile import Clients


@lru_cache(maxsize=1)
def _of_process(pid: int) -> Clients:
    return Clients()


def backlog(queue: str) -> int:
    """How many messages wait in the queue; 0 where the broker does not say."""
    try:
        with current_app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            return int(channel.client.llen(queue))
    except (OperationalError, RedisError, OSError):
        return 0


def clients() -> Clients:
    return _of_process(os.getpid())
