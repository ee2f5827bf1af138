"""Rollouts: asked for here, carried out by reconcile."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, Max, OuterRef

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.core.errors import BerthError, Conflict
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.selectors import rollout_of
from apps.deployments.services.apps import route_touch
from apps.deployments.services.explain import refusal_explained
from apps.deployments.services.placement import instances_place
from apps.deployments.services.releases import ReleaseSettings, bounded, release_create
from apps.deployments.services.spread import GlobalHasNoCount, global_size
from apps.registry.selectors import version_of
from apps.tenants.models import User
from apps.tenants.permissions import Action, require


class RolloutInProgress(Conflict):
    code = "rollouts.in_progress"


class RolloutNotOpen(Conflict):
    code = "rollouts.not_open"


class RolloutSwitched(Conflict):
    """It is past the point at which the old version serves still: going back is a deploy."""

    code = "rollouts.switched"


class NotDeployed(Conflict):
    code = "apps.not_deployed"


def rollout_start(
    *, app: App, version: str, by: User, instances: int | None = None, settings_: ReleaseSettings | None = None
) -> Rollout:
    """Release this version and start moving the app to it: everything is placed before this returns.

    Raises Denied, VersionMissing, ReleaseInvalid, RolloutInProgress, QuotaExceeded, NoHost, PlacementContended;
    then nothing of it exists but an event and, where there was no room, an explanation (``extra["explanation"]``).
    """
    require(by, Action.DEPLOY, app)
    try:
        return _start(app, version, by, instances, settings_ or ReleaseSettings())
    except BerthError as error:
        kept = refusal_explained(
            app=app, by=by, error=error, instances=instances, settings_=settings_ or ReleaseSettings()
        )
        events.record(
            "rollout.refused",
            f"Deploying {version[:128]} was refused: {error.detail}",
            level="warning",
            tenant_id=app.tenant_id,
            app_id=app.pk,
            actor=by.username,
            cause=error.code,
            **({} if kept is None else {"explanation": kept}),
        )
        raise


@transaction.atomic
def _start(app: App, version: str, by: User, instances: int | None, asked: ReleaseSettings) -> Rollout:
    pinned = version_of(app.slug, version)
    # One asker at a time per app: numbers stay dense and the check for an open rollout holds.
    app = _locked(app.pk)
    if app.rollouts.filter(status__in=Rollout.OPEN).exists():
        raise RolloutInProgress(f"{app.slug} has a rollout in progress. Wait for it, or cancel it.")
    if instances is not None:
        bounded("instances", instances)
    release = release_create(app=app, version=pinned, asked=asked, by=by)
    if release.is_global:
        if instances is not None:
            raise GlobalHasNoCount("A global app runs once on every matching host: leave instances out.")
        count = global_size(app=app, release=release)
    else:
        count = instances if instances is not None else _current_size(app)
    serving = app.replica_sets.filter(wanted__gt=0).exists()
    target = ReplicaSet.objects.create(app=app, release=release, wanted=count, weight=0 if serving else 100)
    rollout = _open(app, target, count, by)
    placed = instances_place(replica_set=target, count=count)
    for instance in placed:
        jobs.enqueue(jobs.RECONCILE_INSTANCE, instance.pk)
    jobs.enqueue(jobs.RECONCILE_APP, app.pk)
    events.record(
        "rollout.started",
        f"Rolling out {version} as release {release.number} with {count} instances.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=by.username,
        rollout=rollout.number,
        release=release.number,
    )
    return rollout


def _locked(app_id: int) -> App:
    """The app's row, locked: whoever changes several rows of an app takes it first, so no two wait in a ring.

    Without its key: a placement that inserts an instance refers to the row while it holds the quota that the holder
    of this lock may be about to ask for.
    """
    return App.objects.select_for_update(no_key=True).get(pk=app_id)


def _current_size(app: App) -> int:
    return app.replica_sets.filter(wanted__gt=0).aggregate(size=Max("wanted"))["size"] or 1


def _open(app: App, target: ReplicaSet | None, count: int, by: User) -> Rollout:
    number = (app.rollouts.aggregate(last=Max("number"))["last"] or 0) + 1
    return Rollout.objects.create(
        app=app,
        number=number,
        target=target,
        instances=count,
        status=Rollout.Status.PROGRESSING,
        created_by=by.username,
        deadline_at=after(settings.ROLLOUT_DEADLINE_S),
    )


@transaction.atomic
def undeploy(*, app: App, by: User) -> Rollout:
    """Take the app down to nothing; a rollout in progress is superseded. Raises Denied, NotDeployed."""
    require(by, Action.DEPLOY, app)
    app = _locked(app.pk)
    if not app.instances.filter(released=False).exists() and not app.replica_sets.filter(wanted__gt=0).exists():
        raise NotDeployed(f"{app.slug} runs nothing that could be undeployed.")
    for rollout in app.rollouts.filter(status__in=Rollout.OPEN):
        rollout_end(rollout=rollout, status=Rollout.Status.SUPERSEDED, code="rollout.superseded", reason="Undeployed.")
    app.replica_sets.filter(wanted__gt=0).update(wanted=0, weight=0)
    rollout = _open(app, None, 0, by)
    events.record(
        "undeploy.started",
        "Undeploying.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=by.username,
        rollout=rollout.number,
    )
    route_touch(app_id=app.pk)
    return rollout


@transaction.atomic
def rollout_cancel(*, app: App, number: int, by: User) -> Rollout:
    """Give up a rollout in progress: what it began is removed, and what served before serves on.

    Raises Denied, RolloutMissing, RolloutNotOpen, RolloutSwitched.
    """
    require(by, Action.DEPLOY, app)
    app = _locked(app.pk)
    rollout = rollout_of(app, number)
    if rollout.status not in Rollout.OPEN:
        raise RolloutNotOpen(f"Rollout {number} has ended already: it {rollout.get_status_display().lower()}.")
    if rollout.target_id is None:
        raise RolloutSwitched("The app is being taken down, which can't be cancelled. Deploy it again once it is down.")
    if rollout.switched_route is not None:
        raise RolloutSwitched(f"Rollout {number} has moved the traffic already. Deploy the version before to go back.")
    reason = f"Cancelled by {by.username}."
    rollout_end(
        rollout=rollout, status=Rollout.Status.CANCELLED, code="rollout.cancelled", reason=reason, actor=by.username
    )
    ReplicaSet.objects.filter(pk=rollout.target_id).update(wanted=0, weight=0)
    route_touch(app_id=app.pk)
    rollout.refresh_from_db()
    return rollout


@transaction.atomic
def rollout_end(*, rollout: Rollout, status: str, code: str = "", reason: str = "", actor: str = "") -> bool:
    """Compare-and-swap an open rollout to its end. False where somebody ended it before."""
    ended = Rollout.objects.filter(pk=rollout.pk, status__in=Rollout.OPEN).update(
        status=status, code=code, reason=reason, ended_at=now()
    )
    if ended:
        events.record(
            f"rollout.{status}",
            f"Rollout {rollout.number} {status}. {reason}".strip(),
            level="info" if status in (Rollout.Status.SUCCEEDED, Rollout.Status.CANCELLED) else "warning",
            tenant_id=rollout.app.tenant_id,
            app_id=rollout.app_id,
            actor=actor,
            rollout=rollout.number,
            cause=code,
        )
    return bool(ended)


@transaction.atomic
def rollout_fail(*, rollout: Rollout, code: str, reason: str) -> None:
    """The target is given up; what served before serves on, untouched."""
    _locked(rollout.app_id)
    if not rollout_end(rollout=rollout, status=Rollout.Status.FAILED, code=code, reason=reason):
        return
    if rollout.target_id is not None:
        ReplicaSet.objects.filter(pk=rollout.target_id).update(wanted=0, weight=0)
    route_touch(app_id=rollout.app_id)


@transaction.atomic
def rollout_switch(*, rollout: Rollout) -> bool:
    """All of the target is ready: it gets the traffic, and the other replica sets are wanted no more.

    False where it was not so after all, or somebody else did it. The rollout goes on until that is published.
    """
    target_id = rollout.target_id
    if target_id is None:
        return False
    _locked(rollout.app_id)
    target = ReplicaSet.objects.get(pk=target_id)
    healthy = Instance.objects.filter(replica_set=target, status=Instance.Status.HEALTHY, released=False)
    # One that another of them replaces is about to go: the two are one.
    ready = healthy.exclude(Exists(healthy.filter(replaces=OuterRef("pk")))).count()
    still = Rollout.objects.filter(pk=rollout.pk, status__in=Rollout.OPEN, switched_route=None)
    if ready < target.wanted or not still.exists():
        return False
    ReplicaSet.objects.filter(app_id=rollout.app_id).exclude(pk=target.pk).update(wanted=0, weight=0)
    ReplicaSet.objects.filter(pk=target.pk).update(weight=100)
    route_touch(app_id=rollout.app_id)
    still.update(switched_route=App.objects.values_list("route_wanted").filter(pk=rollout.app_id))
    return True
