"""Nudges for the workers. The database is the truth: a lost message only costs time until beat's next sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

RECONCILE_APP = "deployments.reconcile_app"
RECONCILE_INSTANCE = "deployments.reconcile_instance"
START_INSTANCES = "deployments.start_instances"
OBSERVE_HOST = "deployments.observe_host"
RECONCILE_TENANT = "deployments.reconcile_tenant"
REBUILD_DISCOVERY = "deployments.rebuild_discovery"
PROBE_SHARD = "deployments.probe_shard"
PRUNE_IMAGES = "deployments.prune_images"
DESCRIBE_MANIFEST = "registry.describe"
CLEAN_REPOSITORY = "registry.clean"
COUNT_STORAGE = "registry.count_storage"
DEPLOY_PUSHED = "deployments.deploy_pushed"
UPLOAD = "registry.upload"
SPOOL_CLEAN = "registry.spool_clean"
IMPORT = "registry.import"
DEPLOY_IMPORTED = "deployments.deploy_imported"
CHECK_DOMAIN = "deployments.check_domain"
ORDER_CERTIFICATE = "deployments.order_certificate"
PUBLISH_CERTIFICATES = "deployments.publish_certificates"


def enqueue(name: str, *ids: int | str) -> None:
    """Send a task by name when the transaction commits (at once outside of one).

    Never raises: with Redis away the work is found by the sweep.
    """
    transaction.on_commit(partial(_nudge, name, ids))


#: What is further away than this the sweep finds by itself. Seconds.
LATEST_S = 60.0


def enqueue_later(name: str, delay_s: float, *ids: int | str) -> None:
    """The same after so many seconds: for what would otherwise wait for the sweep, which comes every two."""
    if delay_s <= LATEST_S:
        transaction.on_commit(partial(_later, name, ids, delay_s))


def _later(name: str, ids: tuple[int | str, ...], delay_s: float) -> None:
    # A thread that keeps its nudges, or hands them on, has no time for those that have time.
    if _thread.kept is None and _thread.taker is None:
        _send(name, ids, delay_s)


Nudge = tuple[str, tuple[int | str, ...]]


class _OfThread(threading.local):
    kept: list[Nudge] | None = None
    taker: Callable[[Nudge], None] | None = None


_thread = _OfThread()


@contextmanager
def sent_last() -> Iterator[None]:
    """Of this thread, what is enqueued in the block is sent at its end: a Redis that hangs takes seconds to send to,
    and what the block does can't wait for that.
    """
    outer, _thread.kept = _thread.kept, []
    try:
        yield
    finally:
        nudges, _thread.kept = _thread.kept, outer
        for name, ids in nudges:
            _nudge(name, ids)


@contextmanager
def handed_to(taker: Callable[[Nudge], None]) -> Iterator[None]:
    """Of this thread, what is enqueued in the block is given to ``taker``, so that another thread may ``send`` it."""
    outer, _thread.taker = _thread.taker, taker
    try:
        yield
    finally:
        _thread.taker = outer


def send(nudge: Nudge) -> None:
    """Send at once. Never raises for want of a broker; takes seconds then."""
    _send(*nudge)


def _nudge(name: str, ids: tuple[int | str, ...]) -> None:
    if _thread.kept is not None:
        if (name, ids) not in _thread.kept:
            _thread.kept.append((name, ids))
    elif _thread.taker is not None:
        _thread.taker((name, ids))
    else:
        _send(name, ids)


#: A nudge that waited longer is dropped: the sweep has sent another. Seconds, and many: clocks differ.
EXPIRES_S = 60


class _Quiet:
    """After a nudge was lost, the next ones are not tried for a while: a request that sends ten waits once."""

    seconds = 15.0
    until = 0.0


class _Together:
    """Many nudges about one app within a moment are two: one at once, and one at its end for what came meanwhile.

    Per process. What a process that dies had still to send is found by the sweep.
    """

    #: Seconds.
    MOMENT = 0.05

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[tuple[str, tuple[int | str, ...]], float] = {}
        self._late: set[tuple[str, tuple[int | str, ...]]] = set()

    def now(self, name: str, ids: tuple[int | str, ...]) -> bool:
        """Whether to send it at once; otherwise it is, or will be, sent at the moment's end."""
        key, at = (name, ids), time.monotonic()
        with self._lock:
            if self._until.get(key, 0.0) <= at:
                if len(self._until) > 10_000:
                    self._until = {one: until for one, until in self._until.items() if until > at}
                self._until[key] = at + self.MOMENT
                return True
            if key not in self._late:
                self._late.add(key)
                timer = threading.Timer(self._until[key] - at, self._end, [key])
                timer.daemon = True
                timer.start()
            return False

    def _end(self, key: tuple[str, tuple[int | str, ...]]) -> None:
        with self._lock:
            self._late.discard(key)
            self._until[key] = time.monotonic() + self.MOMENT
        _put(*key)


_together = _Together()


def _send(name: str, ids: tuple[int | str, ...], delay_s: float = 0.0) -> None:
    if delay_s or name != RECONCILE_APP or _together.now(name, ids):
        _put(name, ids, delay_s)


def _put(name: str, ids: tuple[int | str, ...], delay_s: float = 0.0) -> None:
    if time.monotonic() < _Quiet.until:
        return
    try:
        current_app.send_task(
            name, args=ids, countdown=delay_s or None, expires=EXPIRES_S + delay_s, ignore_result=True, retry=False
        )
    except (OperationalError, OSError) as error:
        _Quiet.until = time.monotonic() + _Quiet.seconds
        log.warning("nudge_lost", task=name, ids=ids, error=str(error))
