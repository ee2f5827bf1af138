"""What the publisher did and what gateways say, written down."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from apps.core.clock import now
from apps.core.duties import away
from apps.deployments.models import App, Gateway
from apps.deployments.selectors import live_gateways
from apps.deployments.services.gateway_ports import ports_unrouted
from apps.hosts.selectors import quarantined_ports
from apps.hosts.services.claims import quarantine_end
from gateway.contract import GatewayState

QUARANTINES_AT_ONCE = 2000


@transaction.atomic
def route_published(*, app_id: int, wanted: int, epoch: str, zxid: int) -> None:
    """The publication that was asked for as ``wanted`` stands in ZooKeeper. An older one changes nothing."""
    if App.objects.filter(pk=app_id, route_published__lt=wanted).update(
        route_published=wanted, route_epoch=epoch, route_zxid=zxid
    ):
        ports_unrouted(owner=app_id, wanted=wanted, epoch=epoch, zxid=zxid)


@transaction.atomic
def gateways_seen(*, states: Iterable[GatewayState]) -> None:
    for state in states:
        Gateway.objects.update_or_create(
            name=state.gateway,
            defaults={"epoch": state.epoch, "served": state.served, "last_seen_at": now(), "stats": state.stats},
        )


def served_by_all(*, epoch: str, zxid: int) -> bool:
    """Whether every gateway that may still route has this transaction in force; True where there is no gateway.

    A gateway of another epoch has read everything anew since, but only the publisher knows whether that epoch is
    the later one; so it counts as not served and the caller's deadline decides. While the platform was away it has not
    heard of gateways that are there all the same.
    """
    return not away() and all(gateway.epoch == epoch and gateway.served >= zxid for gateway in live_gateways())


@transaction.atomic
def quarantines_end(*, epoch: str) -> int:
    """Free the ports whose last route every live gateway has dropped, after a rest. Returns how many.

    ``epoch`` is ZooKeeper's present one: a gateway that serves in it has read everything anew since an older one.
    """
    # A gateway that is cut off serves its last good state for as long as it lives, so it counts here for much longer
    # than where an instance waits to be stopped: a port that rests costs nothing.
    gateways = list(live_gateways(settings.PORT_LEASE_S))
    rested = now() - timedelta(seconds=settings.PORT_QUARANTINE_S)
    done = []
    for port in quarantined_ports():
        served = all(
            gateway.served >= port.zxid
            if gateway.epoch == port.epoch
            else gateway.epoch == epoch and gateway.served > 0
            for gateway in gateways
        )
        # Ports of instances that were never routed (zxid 0) are free at once.
        if port.zxid == 0 or (served and port.freed_at is not None and port.freed_at <= rested):
            done.append(port.pk)
    # One transaction locks the hosts of all of them, and a statement takes 65,535 values: the rest is the next pass's.
    return quarantine_end(pks=done[:QUARANTINES_AT_ONCE]) if done else 0
