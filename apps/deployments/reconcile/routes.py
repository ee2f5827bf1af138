"""Keeping ZooKeeper true to the database, and the database informed of the gateways."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from apps.core import jobs
from apps.core.failpoints import reached
from apps.deployments.discovery import DiscoveryUnavailable, EpochMissing, Receipt
from apps.deployments.models import App
from apps.deployments.reconcile.certificates import certificates_publish
from apps.deployments.reconcile.clients import Clients
from apps.deployments.selectors import publication_of, routed
from apps.deployments.services.gateway_ports import ports_unrouted, rests_end, waits_unrouted
from apps.deployments.services.routing import gateways_seen, quarantines_end, route_published
from gateway.contract import ContractError

log = structlog.get_logger(__name__)

#: So many apps in a rebuild that could not be published: it is ZooKeeper that is not well, not they.
GIVE_UP_AFTER = 3


def publish(app_id: int, slug: str, clients: Clients, *, rebuilding: bool = False) -> Receipt | None:
    """Publish what should be routed now. None where ZooKeeper can't take it: the sweep comes again."""
    reached("route.publishing", slug)
    try:
        receipt = clients.discovery.publish(slug, lambda: publication_of(app_id), rebuilding=rebuilding)
    except EpochMissing:
        jobs.enqueue(jobs.REBUILD_DISCOVERY)
        return None
    except ContractError as error:
        # One app that can't be written must not stop the others' publication.
        log.error("unpublishable", app=slug, error=str(error))
        return None
    except DiscoveryUnavailable as error:
        log.warning("publish_failed", app=slug, error=error.detail)
        return None
    if receipt is not None:
        reached("route.unnoted", slug)
        route_published(app_id=app_id, wanted=receipt.wanted, epoch=receipt.epoch, zxid=receipt.zxid)
        reached("route.noted", slug)
    return receipt


def withdraw(app_id: int, slug: str, clients: Clients) -> bool:
    """Take all of an app that has no route any more out of ZooKeeper. False where that can't be done now."""
    try:
        if not clients.discovery.withdraw(slug, lambda: publication_of(app_id) is None):
            return False
        if waits_unrouted(app_id):
            epoch, zxid = clients.discovery.at()
            ports_unrouted(owner=app_id, wanted=None, epoch=epoch, zxid=zxid)
        return True
    except DiscoveryUnavailable as error:
        log.warning("withdraw_failed", app=slug, error=error.detail)
        return False


def gateways_awaited(clients: Clients, follow: Callable[[], bool], *, patience_s: float, poll_s: float) -> bool:
    """Ask gateways again and again how far they are, until what they said is enough (``follow``) or the patience over.

    False also where ZooKeeper, by which they say it, is away.
    """
    patience = time.monotonic() + patience_s
    while True:
        try:
            gateways_seen(states=clients.discovery.gateways())
        except DiscoveryUnavailable:
            return False
        if follow():
            return True
        if time.monotonic() >= patience:
            return False
        time.sleep(poll_s)


def rebuild_discovery(clients: Clients) -> int:
    """Compare every app with ZooKeeper and mend what differs; fill an empty one. Returns how many apps.

    An epoch begins only after everything stands: until then gateways keep what they have.
    """
    apps = list(App.objects.order_by("pk").values_list("pk", "slug"))
    failed = 0
    for pk, slug in apps:
        if publish(pk, slug, clients, rebuilding=True) is None and publication_of(pk) is not None:
            failed += 1
            if failed >= GIVE_UP_AFTER:
                return 0
    if failed:
        return len(apps) - failed
    try:
        if not certificates_publish(clients, everything=True):
            return 0
        clients.discovery.prune(routed)
        if not clients.discovery.epoch():
            log.info("epoch_begun", epoch=clients.discovery.epoch_begin(), apps=len(apps))
    except DiscoveryUnavailable as error:
        log.warning("rebuild_failed", error=error.detail)
        return 0
    return len(apps)


def gateways_observe(clients: Clients) -> int:
    """Note what gateways serve, and end the quarantines that they have outlived. Returns how many ports."""
    try:
        epoch = clients.discovery.epoch()
        gateways_seen(states=clients.discovery.gateways())
    except DiscoveryUnavailable as error:
        log.warning("gateways_unseen", error=error.detail)
        return 0
    rests_end(epoch=epoch)
    return quarantines_end(epoch=epoch)
