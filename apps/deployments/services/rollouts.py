"""Rollouts: asked for here, carried out by reconcile with the moves of ``moves``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from apps.core import events
from apps.core.clock import after, now
from apps.core.errors import BerthError, Conflict, Missing, Refused
from apps.core.models import Event
from apps.deployments.models import App, Release, ReplicaSet, Rollout
from apps.deployments.selectors import rollout_of
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.deployments.services.explain import refusal_explained
from apps.deployments.services.images import image_fits
from apps.deployments.services.moves import Move, rollout_begin, rollout_end, rollout_give_up, rollout_move
from apps.deployments.services.releases import ReleaseSettings, base_of, bounded, release_copy, release_create
from apps.deployments.services.spread import GlobalHasNoCount, global_size
from apps.deployments.services.strategies import LONGEST_S, Options, batch_of, resolved
from apps.registry.selectors import version_of
from apps.tenants.models import User
from apps.tenants.permissions import Action, require

Kind, Phase, Status = Rollout.Kind, Rollout.Phase, Rollout.Status

#: So many may wait behind the one that is under way.
QUEUE = 10
REFUSALS_PER_MINUTE = 30


class RolloutInProgress(Conflict):
    """As many wait as may; or what was asked for can't be done beside a rollout."""

    code = "rollouts.in_progress"


class RolloutNotOpen(Conflict):
    code = "rollouts.not_open"


class RolloutNotPaused(Conflict):
    """There is nothing that waits for somebody."""

    code = "rollouts.not_paused"


class RolloutSwitched(Conflict):
    """It is past the point at which the old version serves still: going back is a rollback."""

    code = "rollouts.switched"


class NotDeployed(Conflict):
    code = "apps.not_deployed"


class TooManyRollouts(Refused):
    """Each leaves rows for as long as the app lives, and each refusal has every host looked at."""

    code = "rollouts.too_many"
    status = 429


class VersionDeleted(Conflict):
    """A release of it can't be gone back to."""

    code = "versions.deleted"


class ReleaseMissing(Missing):
    code = "releases.not_found"


def rollout_start(
    *,
    app: App,
    version: str,
    by: User,
    instances: int | None = None,
    settings_: ReleaseSettings | None = None,
    options: Options | None = None,
    actor: str = "",
    supersede_waiting: bool = False,
) -> Rollout:
    """Release this version and start moving the app to it; where a rollout is under way this one waits behind it.

    What it begins with is placed before this returns. Raises Denied, TooManyRollouts, AppDeleting, VersionMissing,
    NotAnImage, WrongPlatform, ReleaseInvalid, RolloutInvalid, RolloutInProgress, QuotaExceeded, NoHost,
    PlacementContended; then nothing of it exists but an event and, where there was no room, an explanation
    (``extra["explanation"]``). ``actor`` is who it is told to be by, where that is not ``by``; with
    ``supersede_waiting`` what waits is given up for it, and what is under way goes on.
    """
    require(by, Action.DEPLOY, app)
    _not_too_many(app)
    asked = settings_ or ReleaseSettings()
    told_by = actor or by.username

    def release(locked: App) -> Release:
        return release_create(app=locked, version=version_of(app.slug, version), asked=asked, by=by, actor=told_by)

    try:
        return _start(app, told_by, release, instances, options or Options(), Kind.DEPLOY, supersede_waiting)
    except BerthError as error:
        kept = refusal_explained(app=app, by=by, error=error, instances=instances, settings_=asked)
        _refused(app, told_by, f"Deploying {version[:128]}", error, kept)
        raise


def rollback_start(
    *, app: App, release: int | None, by: User, instances: int | None = None, options: Options | None = None
) -> Rollout:
    """A rollout to a new release that has the whole content of an old one: of the given number, else of the last that
    served before the present one. Raises as ``rollout_start`` does, ReleaseMissing, VersionDeleted.
    """
    require(by, Action.DEPLOY, app)
    _not_too_many(app)
    old = rollback_target(app, release)
    try:
        return _start(
            app,
            by.username,
            lambda locked: release_copy(app=locked, of=_kept(old), by=by),
            instances,
            options or Options(),
            Kind.ROLLBACK,
        )
    except BerthError as error:
        _refused(app, by.username, f"Rolling back to release {old.number}", error, None)
        raise


def _kept(release: Release) -> Release:
    """The release, whose app the caller has locked, unless its version was deleted: that takes the lock too."""
    release.version.refresh_from_db(fields=["deleting_at"])
    if release.version.deleting_at is not None:
        raise VersionDeleted(
            f"Release {release.number} is made of {release.version.tag}, which was deleted. Push it anew and deploy it."
        )
    return release


def rollback_target(app: App, number: int | None) -> Release:
    """The release of that number; with None the last that served before the present one. Raises ReleaseMissing."""
    releases = app.releases.select_related("version")
    if number is not None:
        found = releases.filter(number=number).first()
        if found is None:
            raise ReleaseMissing(f"{app.slug} has no release {number}.")
        return found
    present = base_of(app)
    served = releases.filter(replica_set__rollouts__status=Status.SUCCEEDED)
    before = served.filter(number__lt=present.number).order_by("-number").first() if present else None
    if before is None:
        raise ReleaseMissing(f"{app.slug} has no release before the present one to go back to.")
    return before


def _not_too_many(app: App) -> None:
    """Raises TooManyRollouts, of which nothing is written. Askers at the same time may be a few over the limit."""
    most = settings.ROLLOUTS_PER_HOUR
    made = app.rollouts.order_by("-number").values_list("created_at", flat=True)[most - 1 : most].first()
    if made is not None and made > after(-3600):
        raise TooManyRollouts(f"{app.slug} had {most} rollouts within the last hour. Wait a while.")
    refusals = Event.objects.filter(app_id=app.pk, code="rollout.refused", at__gte=after(-60)).order_by()
    if refusals[:REFUSALS_PER_MINUTE].count() == REFUSALS_PER_MINUTE:
        raise TooManyRollouts(f"{REFUSALS_PER_MINUTE} rollouts of {app.slug} were refused within a minute. Wait one.")


def _refused(app: App, actor: str, what: str, error: BerthError, explanation: int | None) -> None:
    events.record(
        "rollout.refused",
        f"{what} was refused: {error.detail}",
        level="warning",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=actor,
        cause=error.code,
        **({} if explanation is None else {"explanation": explanation}),
    )


@transaction.atomic
def _start(
    app: App,
    actor: str,
    make: Callable[[App], Release],
    instances: int | None,
    options: Options,
    kind: str,
    supersede_waiting: bool = False,
) -> Rollout:
    # One asker at a time per app: numbers stay dense and the look at the queue holds.
    app = not_going(app_locked(app.pk))
    if instances is not None:
        bounded("instances", instances)
    release = make(app)
    image_fits(app=app, version=release.version)
    if options.supersede or supersede_waiting:
        _supersede(app, actor, waiting_only=not options.supersede)
    waiting = app.rollouts.filter(status__in=Rollout.OPEN).count()
    if waiting > QUEUE:
        raise RolloutInProgress(f"{QUEUE} rollouts of {app.slug} wait already. Cancel some, or supersede them.")
    if release.is_global:
        if instances is not None:
            raise GlobalHasNoCount("A global app runs once on every matching host: leave instances out.")
        count = global_size(app=app, release=release)
    else:
        count = instances if instances is not None else _current_size(app)
    columns = resolved(options, instances=count, is_global=release.is_global)
    target = ReplicaSet.objects.create(app=app, release=release)
    rollout = _open(app, target, count, actor, kind=kind, **columns)
    if not waiting and rollout_begin(rollout=rollout, place=True):
        rollout.refresh_from_db()
        return rollout
    events.record(
        "rollout.queued",
        f"Rollout {rollout.number} (release {release.number}) waits for the one before it.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=actor,
        rollout=rollout.number,
        release=release.number,
    )
    route_touch(app_id=app.pk)
    return rollout


def _supersede(app: App, actor: str, *, waiting_only: bool) -> None:
    """Give up what is open; what can't be given up any more is waited for."""
    given_up = [Status.PENDING] if waiting_only else Rollout.OPEN
    for rollout in app.rollouts.filter(status__in=given_up).order_by("-number"):
        if rollout.target_id is None or rollout.phase == Phase.ENDING:
            continue
        _give_up(rollout, Status.SUPERSEDED, f"{actor} asked for something newer.", actor)


def _give_up(rollout: Rollout, status: str, reason: str, actor: str) -> None:
    code = f"rollout.{status}"
    if rollout.status == Status.PENDING:
        rollout_end(rollout=rollout, status=status, code=code, reason=reason, actor=actor)
    else:
        rollout_give_up(rollout=rollout, status=status, code=code, reason=reason, actor=actor)


def _current_size(app: App) -> int:
    coming = app.rollouts.filter(status__in=Rollout.OPEN, target__isnull=False).order_by("-number").first()
    if coming is not None:
        return coming.instances
    return app.replica_sets.filter(wanted__gt=0).aggregate(size=Max("wanted"))["size"] or 1


def _open(app: App, target: ReplicaSet | None, count: int, actor: str, **values: Any) -> Rollout:
    number = (app.rollouts.aggregate(last=Max("number"))["last"] or 0) + 1
    columns: dict[str, Any] = {
        "status": Status.PENDING,
        "timeline": [{"step": "asked", "at": now().isoformat()}],
        "deadline_at": after(LONGEST_S),
        **values,
    }
    return Rollout.objects.create(app=app, number=number, target=target, instances=count, created_by=actor, **columns)


@transaction.atomic
def undeploy(*, app: App, by: User) -> Rollout:
    """Take the app down to nothing; what is open or waits is superseded. Asked again, it only goes on.

    Raises Denied, AppDeleting, NotDeployed.
    """
    require(by, Action.DEPLOY, app)
    app = not_going(app_locked(app.pk))
    under_way = list(app.rollouts.filter(status__in=Rollout.OPEN)[:2])
    if len(under_way) == 1 and under_way[0].kind == Kind.UNDEPLOY:
        # Another one would begin its time anew, and leave a row each time.
        return under_way[0]
    sets = app.replica_sets.exclude(wanted=0, weight=0, retiring_until=None)
    if not app.instances.filter(released=False).exists() and not sets.exists():
        raise NotDeployed(f"{app.slug} runs nothing that could be undeployed.")
    for rollout in app.rollouts.filter(status__in=Rollout.OPEN):
        rollout_end(rollout=rollout, status=Status.SUPERSEDED, code="rollout.superseded", reason="Undeployed.")
    sets.update(wanted=0, weight=0, retiring_until=None)
    at = now()
    rollout = _open(
        app,
        None,
        0,
        by.username,
        kind=Kind.UNDEPLOY,
        status=Status.PROGRESSING,
        phase=Phase.ENDING,
        began_at=at,
        phase_since=at,
        deadline_at=after(settings.ROLLOUT_DEADLINE_S),
    )
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


def _found(app: App, number: int, by: User) -> tuple[App, Rollout]:
    """Of an open rollout, with the app's row locked. Raises Denied, AppDeleting, RolloutMissing, RolloutNotOpen."""
    require(by, Action.DEPLOY, app)
    app = not_going(app_locked(app.pk))
    rollout = rollout_of(app, number)
    if rollout.status not in Rollout.OPEN:
        raise RolloutNotOpen(f"Rollout {number} has ended already: {rollout.get_status_display().lower()}.")
    return app, rollout


@transaction.atomic
def rollout_cancel(*, app: App, number: int, by: User) -> Rollout:
    """Give up a rollout that waits or is under way: what served before serves, as many instances as it had.

    Raises Denied, AppDeleting, RolloutMissing, RolloutNotOpen, RolloutSwitched.
    """
    app, rollout = _found(app, number, by)
    if rollout.target_id is None:
        raise RolloutSwitched("The app is being taken down, which can't be cancelled. Deploy it again once it is down.")
    if rollout.status != Status.PENDING and rollout.phase == Phase.ENDING:
        raise RolloutSwitched(f"Rollout {number} is through: the old version is going already. Roll back instead.")
    _give_up(rollout, Status.CANCELLED, f"Cancelled by {by.username}.", by.username)
    rollout.refresh_from_db()
    return rollout


@transaction.atomic
def rollout_pause(*, app: App, number: int, by: User) -> Rollout:
    """Let it go no further until it is continued, a day at most; both versions serve on as they do.

    Raises Denied, RolloutMissing, RolloutNotOpen, RolloutSwitched.
    """
    app, rollout = _found(app, number, by)
    if rollout.target_id is None or rollout.phase not in (Phase.MOVING, Phase.JUDGING):
        raise RolloutSwitched(f"Rollout {number} has nothing left that could be paused.")
    if rollout.status == Status.PENDING:
        raise RolloutNotOpen(f"Rollout {number} has not begun yet. Cancel it, or wait.")
    if rollout.status == Status.PROGRESSING:
        rollout_move(rollout=rollout, move=Move(status=Status.PAUSED, mark="paused"))
        rollout.refresh_from_db()
    return rollout


@transaction.atomic
def rollout_continue(*, app: App, number: int, by: User) -> Rollout:
    """Let a paused rollout go on, a canary to its next step; of one that keeps the old version, let that go now.

    Raises Denied, RolloutMissing, RolloutNotOpen, RolloutNotPaused.
    """
    app, rollout = _found(app, number, by)
    if rollout.status == Status.PAUSED:
        move = Move(status=Status.PROGRESSING, mark="continued")
        if rollout.steps and rollout.phase == Phase.JUDGING and rollout.step < len(rollout.steps):
            move = next_step(rollout, mark="continued")
    elif rollout.phase == Phase.KEEPING:
        move = Move(phase=Phase.ENDING, mark="continued")
    else:
        raise RolloutNotPaused(f"Rollout {number} waits for nobody.")
    rollout_move(rollout=rollout, move=move)
    rollout.refresh_from_db()
    return rollout


def next_step(rollout: Rollout, *, mark: str) -> Move:
    """A canary's way to its next step, from a pause or from work."""
    step = rollout.step + 1
    there = batch_of(Rollout(instances=rollout.instances, steps=rollout.steps, step=step))
    return Move(status=Status.PROGRESSING, phase=Phase.MOVING, step=step, target_wanted=there, mark=mark)
