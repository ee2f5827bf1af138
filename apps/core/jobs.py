"""Nudges for the workers. The database is the truth: a lost message only costs time until beat's next sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

RECONCILE_APP = "deployments.reconcile_app"
RECONCILE_INSTANCE = "deployments.reconcile_instance"
OBSERVE_HOST = "deployments.observe_host"
RECONCILE_TENANT = "deployments.reconcile_tenant"
REBUILD_DISCOVERY = "deployments.rebuild_discovery"
PROBE_SHARD = "deployments.probe_shard"


def enqueue(name: str, *ids: int | str) -> None:
    """Send a task by name when the transaction commits (at once outside of one).

    Never raises: with Redis away the work is found by the sweep.
    """
    transaction.on_commit(partial(_nudge, name, ids))


class _Kept(threading.local):
    nudges: list[tuple[str, tuple[int | str, ...]]] | None = None


_kept = _Kept()


@contextmanager
def sent_last() -> Iterator[None]:
    """Of this thread, what is enqueued in the block is sent at its end: a Redis that hangs takes seconds to send to,
    and what the block does can't wait for that.
    """
    outer, _kept.nudges = _kept.nudges, []
    try:
        yield
    finally:
        nudges, _kept.nudges = _kept.nudges, outer
        for name, ids in nudges:
            _nudge(name, ids)


def _nudge(name: str, ids: tuple[int | str, ...]) -> None:
    if _kept.nudges is None:
        _send(name, ids)
    elif (name, ids) not in _kept.nudges:
        _kept.nudges.append((name, ids))


#: A nudge that waited longer is dropped: the sweep has sent another. Seconds, and many: clocks differ.
EXPIRES_S = 60


class _Quiet:
    """After a nudge was lost, the next ones are not tried for a while: a request that sends ten waits once."""

    seconds = 15.0
    until = 0.0


def _send(name: str, ids: tuple[int | str, ...]) -> None:
    if time.monotonic() < _Quiet.until:
        return
    try:
        current_app.send_task(name, args=ids, expires=EXPIRES_S, ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        _Quiet.until = time.monotonic() + _Quiet.seconds
        log.warning("nudge_lost", task=name, ids=ids, error=str(error))
