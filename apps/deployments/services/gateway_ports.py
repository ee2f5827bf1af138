"""Ports of the gateways for apps of TCP: claimed, given back, and rested before the next one gets them.

Lock order: the app's row, then the tenant's quota, as in every placement.
"""

from __future__ import annotations

import random
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Conflict, Missing
from apps.deployments.models import App, GatewayPort
from apps.deployments.selectors import live_gateways
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.tenants.models import Quota, User
from apps.tenants.permissions import Action, require
from apps.tenants.services.tenants import QuotaExceeded

ATTEMPTS = 20
_CLAIMED, _RESTING = GatewayPort.Status.CLAIMED, GatewayPort.Status.RESTING


class PortsOfTcp(Conflict):
    code = "ports.not_tcp"


class PortsExhausted(Conflict):
    code = "ports.exhausted"


class PortMissing(Missing):
    code = "ports.not_found"


def pool() -> range:
    """The ports that gateways listen on for apps of TCP; empty where there are none."""
    if settings.GATEWAY_TCP_PORTS is None:
        return range(0)
    first, last = settings.GATEWAY_TCP_PORTS
    return range(first, last + 1)


@transaction.atomic
def port_claim(*, app: App, by: User) -> GatewayPort:
    """One more port of the gateways leads to the app. Which one, the platform picks.

    Raises Denied, AppDeleting, PortsOfTcp, QuotaExceeded, PortsExhausted.
    """
    require(by, Action.DEPLOY, app)
    app = not_going(app_locked(app.pk))
    if app.protocol != App.Protocol.TCP:
        raise PortsOfTcp(f"{app.slug} speaks {app.protocol}: it is reached by its name. Ports are for apps of TCP.")
    # The row's lock makes the count exact while others of the tenant claim too.
    Quota.objects.select_for_update(no_key=True).get(tenant=app.tenant_id)
    most = settings.GATEWAY_PORTS_PER_TENANT
    if GatewayPort.objects.filter(tenant_id=app.tenant_id, status=_CLAIMED).count() >= most:
        raise QuotaExceeded(f"The tenant may have {most} ports of the gateways and has them. Give one back first.")
    port = _taken(app, by)
    words = f"Port {port.port} of the gateways leads to {app.slug}."
    events.record("ports.claimed", words, tenant_id=app.tenant_id, app_id=app.pk, actor=by.username, port=port.port)
    route_touch(app_id=app.pk)
    return port


def _taken(app: App, by: User) -> GatewayPort:
    """By chance, so that askers at the same time seldom want the same, and a port that was just freed is unlikely."""
    for _ in range(ATTEMPTS):
        held = set(GatewayPort.objects.values_list("port", flat=True))
        left = [port for port in pool() if port not in held]
        if not left:
            break
        try:
            with transaction.atomic():
                return GatewayPort.objects.create(
                    port=random.choice(left),  # noqa: S311 - no secret
                    tenant_id=app.tenant_id,
                    owner=app.pk,
                    claimed_by=by.username,
                )
        except IntegrityError:
            continue
    raise PortsExhausted("The platform has no free port for an app of TCP. Try again later, or tell its operators.")


@transaction.atomic
def port_release(*, app: App, port: int, by: User) -> None:
    """It leads nowhere any more, and to nobody else before it has rested. Raises Denied, AppDeleting, PortMissing."""
    require(by, Action.DEPLOY, app)
    app = not_going(app_locked(app.pk))
    if not _rest(app, port=port):
        raise PortMissing(f"{app.slug} has no port {port}.")
    words = f"{app.slug} gave back port {port} of the gateways."
    events.record("ports.released", words, tenant_id=app.tenant_id, app_id=app.pk, actor=by.username, port=port)


def ports_release(*, app: App) -> None:
    """All of an app that is being deleted; part of the transaction that begins it and holds the app's row."""
    _rest(app)


def _rest(app: App, **which: int) -> int:
    rows = GatewayPort.objects.filter(owner=app.pk, status=_CLAIMED, **which)
    if not rows.exists():
        return 0
    route_touch(app_id=app.pk)
    wanted = App.objects.values_list("route_wanted", flat=True).get(pk=app.pk)
    return rows.update(status=_RESTING, freed_at=now(), wanted=wanted, epoch="", zxid=0)


def ports_unrouted(*, owner: int, wanted: int | None, epoch: str, zxid: int) -> None:
    """What was published as ``wanted`` (None: nothing of the app any more) leads no port here that was given back."""
    rows = GatewayPort.objects.filter(owner=owner, status=_RESTING, zxid=0)
    if wanted is not None:
        rows = rows.filter(wanted__lte=wanted)
    rows.update(epoch=epoch, zxid=zxid)


def waits_unrouted(owner: int) -> bool:
    """Whether ports that the app gave back wait for a publication without them."""
    return GatewayPort.objects.filter(owner=owner, status=_RESTING, zxid=0).exists()


@transaction.atomic
def rests_end(*, epoch: str) -> int:
    """Ports that every live gateway has let go of, and that have rested, may be claimed. Returns how many.

    As with hosts' ports, a gateway that is cut off counts for as long as it may serve its last good state.
    """
    rested = now() - timedelta(seconds=settings.GATEWAY_PORT_REST_S)
    resting = list(GatewayPort.objects.filter(status=_RESTING, zxid__gt=0, freed_at__lte=rested))
    gateways = list(live_gateways(settings.PORT_LEASE_S)) if resting else []
    done = [
        one.pk
        for one in resting
        if all(
            gateway.served >= one.zxid if gateway.epoch == one.epoch else gateway.epoch == epoch and gateway.served > 0
            for gateway in gateways
        )
    ]
    return GatewayPort.objects.filter(pk__in=done, status=_RESTING).delete()[0] if done else 0
