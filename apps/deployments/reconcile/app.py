"""One app: as many instances as its replica sets want, its rollout moved on, its route published."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.leases import held
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.routes import publish
from apps.deployments.selectors import live_counts, own_failures, recent_failures
from apps.deployments.services.instances import instance_drain
from apps.deployments.services.placement import instances_place
from apps.deployments.services.rollouts import rollout_end, rollout_fail, rollout_switch

log = structlog.get_logger(__name__)

#: A rollout whose instances fail this often is given up before its deadline.
ROLLOUT_FAILURES = 3
#: Restarts as Cloud Foundry does them: three at once, then after 30 s doubling to 16 min.
IMMEDIATE_RESTARTS = 3
BACKOFF_S = 30
BACKOFF_MAX_S = 960
FAILURES_KEPT_S = 1800
#: A host on which an instance of the set has just failed is the last choice for this long. Seconds.
AVOID_S = 120
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
    _counts(app)
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


def _counts(app: App) -> None:
    live = live_counts(app.pk)
    for replica_set in app.replica_sets.select_related("release__version", "app"):
        missing = replica_set.wanted - live.get(replica_set.pk, 0)
        if missing > 0:
            _grow(app, replica_set, missing)
        elif missing < 0:
            _shrink(replica_set, -missing)


def _grow(app: App, replica_set: ReplicaSet, missing: int) -> None:
    at = now()
    if replica_set.retry_at is not None and at < replica_set.retry_at:
        return
    failures = list(recent_failures(replica_set.pk, at - timedelta(seconds=FAILURES_KEPT_S)))
    ready_at = _next_try(failures, replica_set.wanted)
    if ready_at is not None and at < ready_at:
        ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=ready_at)
        return
    avoid = frozenset(one.host_id for one in failures if one.status_since >= at - timedelta(seconds=AVOID_S))
    try:
        placed = instances_place(replica_set=replica_set, count=missing, avoid=avoid)
    except BerthError as error:
        if replica_set.retry_at is None:
            events.record(
                "placement.waiting",
                f"{missing} instances can't be placed: {error.detail}",
                level="warning",
                tenant_id=app.tenant_id,
                app_id=app.pk,
                cause=error.code,
            )
        ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=at + timedelta(seconds=5))
        return
    ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=None)
    for instance in placed:
        jobs.enqueue(jobs.RECONCILE_INSTANCE, instance.pk)


def _next_try(failures: list[Instance], wanted: int) -> datetime | None:
    """When the next replacement may start, by how often and when the last ones failed (the latest first).

    As many failures as instances are wanted count as one round: ten that crash together crashed once.
    """
    restarts = len(failures) // max(1, wanted) - 1
    if restarts < IMMEDIATE_RESTARTS:
        return None
    delay = min(BACKOFF_S * 2 ** (restarts - IMMEDIATE_RESTARTS), BACKOFF_MAX_S)
    return failures[0].status_since + timedelta(seconds=delay)


def _shrink(replica_set: ReplicaSet, surplus: int) -> None:
    """The least ready go first, then the newest."""
    order = {status: rank for rank, status in enumerate(Instance.LIVE)}
    rows = replica_set.instances.filter(released=False, status__in=Instance.LIVE).select_related("app")
    for instance in sorted(rows, key=lambda row: (order[Instance.Status(row.status)], -row.pk))[:surplus]:
        instance_drain(instance=instance)
