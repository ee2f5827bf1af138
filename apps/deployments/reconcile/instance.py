"""One instance: from placed to running to ready, or on its way out."""

from __future__ import annotations

import time
from datetime import timedelta

import structlog
from django.conf import settings

from apps.core import jobs
from apps.core.clock import now
from apps.core.duties import away
from apps.core.failpoints import reached
from apps.core.leases import held
from apps.deployments.discovery import DiscoveryUnavailable
from apps.deployments.models import Instance
from apps.deployments.reconcile.capsules import capture
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.containers import StartOverdue, spec_of, start_failed
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.routes import gateways_awaited, publish
from apps.deployments.reconcile.starting import forward
from apps.deployments.selectors import instance_read, moved_on, next_to_stop, stopping_enough
from apps.deployments.services.failing import instance_cleared
from apps.deployments.services.instances import instance_released, instance_unrouted
from apps.deployments.services.routing import served_by_all
from apps.hosts.engines.base import EngineError, EngineUnreachable

log = structlog.get_logger(__name__)
Status = Instance.Status

#: How long one pass waits for gateways before it gives the worker back. Seconds.
PATIENCE_S = 2.0
POLL_S = 0.05


def reconcile_instance(pk: int, clients: Clients) -> None:
    """Move the instance as far as it goes now. While another worker does that, leave it to that one."""
    last = ""
    while True:
        with held(Instance, pk) as mine:
            if not mine:
                return
            instance = instance_read(pk)
            if instance is None or instance.released:
                return
            while _step(instance, clients):
                instance = instance_read(pk)
                if instance is None or instance.released:
                    return
            last = instance.status
        # A move by others whose nudge found the lease taken is seen here, after the lease was given back.
        if not moved_on({pk: last}):
            return


def _step(instance: Instance, clients: Clients) -> bool:
    """One move; True if the next may follow at once."""
    if instance.status == Status.PLACED and instance.container_id:
        return _clear(instance, clients)
    if instance.status in Instance.LEAVING:
        return _retire(instance, clients)
    return bool(forward([instance], clients))


def _clear(instance: Instance, clients: Clients) -> bool:
    """To be started anew where it is: its old container goes first, and before that its route."""
    if not _unrouted(instance, clients):
        return False
    if _removed(instance, clients, grace=0):
        return instance_cleared(instance=instance)
    late = now() >= instance.status_since + timedelta(seconds=settings.START_DEADLINE_S) and not away()
    if instance.host.silent or not late:
        return False
    return start_failed(instance, StartOverdue("its old container could not be removed in time"))


def _retire(instance: Instance, clients: Clients) -> bool:
    """Unpublish, wait for the gateways, stop, remove, free: in this order, each step repeatable."""
    if not _unrouted(instance, clients) or (instance.was_routed and not _answered_all(instance, clients)):
        return False
    if instance.status == Status.LOST:
        capture(instance, clients)
        # Nobody is there to be asked. The host is not ready again before its container is gone.
        instance_released(instance=instance)
        return False
    grace = instance.replica_set.release.stop_grace_s if instance.status == Status.DRAINING else 0
    if grace and stopping_enough(instance):
        return False
    if _removed(instance, clients, grace):
        instance_released(instance=instance)
        reached("instance.released", instance.app.slug)
        if instance.rebuild_as_id is not None:
            reached("place.handed_over", instance.app.slug)
        for waiting in next_to_stop(instance) if grace else ():
            jobs.enqueue(jobs.RECONCILE_INSTANCE, waiting)
    return False


def _unrouted(instance: Instance, clients: Clients) -> bool:
    """Whether no gateway routes to it any more; unpublishes it first."""
    if not instance.was_routed:
        return True
    if not instance.unrouted_zxid:
        receipt = publish(instance.app_id, instance.app.slug, clients)
        if receipt is None:
            # Not unpublished: users may still be on their way to it, so it stays. The sweep comes again.
            return False
        reached("instance.unpublished", instance.app.slug)
        instance_unrouted(instance=instance, epoch=receipt.epoch, zxid=receipt.zxid)
        reached("instance.unrouted", instance.app.slug)
        instance.refresh_from_db(fields=["unrouted_epoch", "unrouted_zxid", "unrouted_at", "deadline_at"])
    if not _gateways_let_go(instance, clients):
        return False
    reached("gateways.let_go", instance.app.slug)
    return True


def _removed(instance: Instance, clients: Clients, grace: int) -> bool:
    """Whether its container is gone from its host now."""
    if instance.host.silent:
        # Asking it would only keep this worker waiting. The sweep comes again.
        return False
    capture(instance, clients)
    try:
        clients.engine(instance.host).remove(spec_of(instance).name, grace_s=grace)
    except EngineUnreachable as error:
        log.warning("remove_waits", instance=str(instance.uid), host=instance.host.name, error=str(error))
        return False
    except EngineError as error:
        log.error("remove_failed", instance=str(instance.uid), code=error.code, error=str(error))
        return False
    reached("container.removed", instance.app.slug)
    return True


def _answered_all(instance: Instance, clients: Clients) -> bool:
    """Whether what it was asked before gateways let go of it is answered. What no gateway can tell is not waited for.

    Only of one that is well: of the others no answer is to be expected.
    """
    if instance.status != Status.DRAINING:
        return True
    until = (instance.unrouted_at or now()) + timedelta(seconds=settings.DRAIN_REQUESTS_S)
    patience = time.monotonic() + PATIENCE_S
    while now() < until:
        try:
            states = clients.discovery.gateways()
        except DiscoveryUnavailable:
            return True
        told = clients.traffic.of(instance.app.slug, states)
        if not any(one.busy.get(instance.container_id) for one in told.values()):
            return True
        if time.monotonic() >= patience:
            return False
        time.sleep(2 * POLL_S)
    log.info("drain_cut", instance=str(instance.uid))
    return True


def _gateways_let_go(instance: Instance, clients: Clients) -> bool:
    """Whether no live gateway routes to it any more; gives up waiting at the deadline (its port stays fenced)."""

    def enough() -> bool:
        if served_by_all(epoch=instance.unrouted_epoch, zxid=instance.unrouted_zxid):
            return True
        overdue = passed(instance)
        if overdue:
            log.warning("gateways_overdue", instance=str(instance.uid), zxid=instance.unrouted_zxid)
        return overdue

    return gateways_awaited(clients, enough, patience_s=PATIENCE_S, poll_s=POLL_S)
