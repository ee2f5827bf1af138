"""One app: as many instances as its replica sets want, its rollout moved on, its route published."""

from __future__ import annotations

import structlog

from apps.core.clock import now
from apps.core.leases import held
from apps.deployments.models import App, ReplicaSet, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.counts import counts
from apps.deployments.reconcile.routes import publish
from apps.deployments.selectors import own_failures
from apps.deployments.services.rollouts import rollout_end, rollout_fail, rollout_switch

log = structlog.get_logger(__name__)

#: A rollout whose instances fail this often is given up before its deadline.
ROLLOUT_FAILURES = 3
#: A pass that itself changes what is wanted is followed by another; what still changes then, the sweep finds.
ROUNDS = 10
#: Failures that another try can't mend, or that took so long to show that another try is not worth the wait.
FINAL_CODES = frozenset({"image.not_found", "container.refused", "instance.never_ready"})


def reconcile_app(app_id: int, clients: Clients) -> None:
    """Go round until nothing new is asked for. While another worker does that, leave it to that one."""
    for _ in range(ROUNDS):
        with held(App, app_id) as mine:
            if not mine:
                return
            app = App.objects.select_related("tenant").filter(pk=app_id).first()
            if app is None:
                return
            seen = app.route_wanted
            _pass(app, clients)
        # A change whose nudge found the lease taken is seen here, since this looks after the lease was given back.
        if not App.objects.filter(pk=app_id, route_wanted__gt=seen).exists():
            return


def _pass(app: App, clients: Clients) -> None:
    _rollouts(app)
    counts(app)
    app.refresh_from_db(fields=["route_wanted", "route_published"])
    if app.route_wanted > app.route_published and publish(app.pk, app.slug, clients):
        app.refresh_from_db(fields=["route_wanted", "route_published"])
        _rollouts(app)


def _rollouts(app: App) -> None:
    for rollout in app.rollouts.filter(status__in=Rollout.OPEN).select_related("target", "app"):
        if rollout.target is None:
            _undeploying(app, rollout)
        elif rollout.switched_route is None:
            _progressing(rollout, rollout.target)
        else:
            _switching(app, rollout, rollout.switched_route)


def _undeploying(app: App, rollout: Rollout) -> None:
    left = app.instances.filter(released=False).count()
    if not left:
        rollout_end(rollout=rollout, status=Rollout.Status.SUCCEEDED)
    elif now() >= rollout.deadline_at:
        rollout_end(
            rollout=rollout,
            status=Rollout.Status.FAILED,
            code="rollout.deadline",
            reason=f"{left} instances could not be removed in time; the platform keeps trying.",
        )


def _switching(app: App, rollout: Rollout, route: int) -> None:
    """The target has the traffic as far as the database goes: it is over when ZooKeeper says so too."""
    if app.route_published >= route:
        rollout_end(rollout=rollout, status=Rollout.Status.SUCCEEDED)
    elif now() >= rollout.deadline_at:
        rollout_end(
            rollout=rollout,
            status=Rollout.Status.FAILED,
            code="rollout.unpublished",
            reason="All instances are ready, but their route is not published yet. The platform keeps trying.",
        )


def _progressing(rollout: Rollout, target: ReplicaSet) -> None:
    if rollout_switch(rollout=rollout):
        return
    failures = list(own_failures(target.pk, rollout.created_at)[:ROLLOUT_FAILURES])
    last = failures[0] if failures else None
    if last is not None and (len(failures) >= ROLLOUT_FAILURES or last.code in FINAL_CODES):
        rollout_fail(rollout=rollout, code=last.code, reason=last.reason)
    elif now() >= rollout.deadline_at:
        why = f" The last failure: {last.reason}" if last else ""
        rollout_fail(
            rollout=rollout,
            code=last.code if last else "rollout.deadline",
            reason=f"Not all of {target.wanted} instances were ready in time.{why}",
        )
