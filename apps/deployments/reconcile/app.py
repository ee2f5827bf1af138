"""One app: as many instances as its replica sets want, its rollout moved on, its route published."""

from __future__ import annotations

import time

import structlog

from apps.core import jobs
from apps.core.failpoints import reached
from apps.core.leases import held
from apps.deployments.models import App
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.counts import counts
from apps.deployments.reconcile.deleting import delete_on
from apps.deployments.reconcile.rollouts import advance, awaits_gateways
from apps.deployments.reconcile.routes import gateways_awaited, publish

log = structlog.get_logger(__name__)

#: A pass that itself changes what is wanted is followed by another; after so many it is somebody else's turn.
ROUNDS = 20
#: After so many, each waits for twice as long as the last had worked (at most so many seconds): an app of hundreds of
#: instances that become ready one by one is not published anew for each of them.
UNPACED = 4
PACE_S = 0.25
#: How long a pass waits for gateways to say that they have a shift in force, before the sweep looks again. Seconds.
PATIENCE_S = 1.0
POLL_S = 0.01


def reconcile_app(app_id: int, clients: Clients) -> None:
    """Go round until nothing new is asked for. While another worker does that, leave it to that one."""
    took = 0.0
    for turn in range(ROUNDS):
        if turn >= UNPACED:
            time.sleep(min(2 * took, PACE_S))
        began = time.thread_time()
        with held(App, app_id) as mine:
            if not mine:
                return
            app = App.objects.select_related("tenant").filter(pk=app_id).first()
            if app is None:
                return
            seen = app.route_wanted
            again = _pass(app, clients)
            took = time.thread_time() - began
        # A change whose nudge found the lease taken is seen here, since this looks after the lease was given back.
        if not again and not App.objects.filter(pk=app_id, route_wanted__gt=seen).exists():
            return
    jobs.enqueue(jobs.RECONCILE_APP, app_id)


def _pass(app: App, clients: Clients) -> bool:
    """Whether another should follow at once."""
    if app.deleting_at is not None:
        delete_on(app, clients)
        return False
    reached("app.seen", app.slug)
    moved = advance(app, clients)
    counts(app)
    app.refresh_from_db(fields=["route_wanted", "route_published", "route_epoch", "route_zxid"])
    if app.route_wanted > app.route_published and publish(app.pk, app.slug, clients):
        app.refresh_from_db(fields=["route_wanted", "route_published", "route_epoch", "route_zxid"])
        moved = True
    return (awaits_gateways(app) and _gateways_follow(app, clients)) or moved


def _gateways_follow(app: App, clients: Clients) -> bool:
    """Whether the gateways came to have the app's last shift in force while this waited."""
    there = gateways_awaited(clients, lambda: not awaits_gateways(app), patience_s=PATIENCE_S, poll_s=POLL_S)
    if there:
        reached("gateways.acknowledged", app.slug)
    return there
