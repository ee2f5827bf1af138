"""One move of an app's rollout at a time: ``phases`` decides, services.moves writes; and how rollouts begin and end."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from apps.core import jobs
from apps.core.clock import now
from apps.core.duties import away
from apps.core.failpoints import reached
from apps.core.models import Event
from apps.deployments.models import App, ReplicaSet, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.judging import Judgement, snapshot, traffic_report
from apps.deployments.reconcile.phases import Scene, looks_after, next_move
from apps.deployments.reconcile.steps import move_made
from apps.deployments.selectors import live_of, own_failures
from apps.deployments.services.images import NOT_AN_IMAGE, OTHER_PLATFORM
from apps.deployments.services.moves import (
    Move,
    ready_of,
    retire,
    rollout_begin,
    rollout_end,
    rollout_give_up,
    rollout_move,
    rollout_noted,
)
from apps.deployments.services.routing import served_by_all
from apps.deployments.services.strategies import share

Phase, Status, Strategy = Rollout.Phase, Rollout.Status, Rollout.Strategy

#: A rollout whose instances fail this often is given up before its deadline.
ROLLOUT_FAILURES = 3
#: Failures that another try can't mend, or that took so long to show that another try is not worth the wait.
FINAL_CODES = frozenset({"image.not_found", NOT_AN_IMAGE, OTHER_PLATFORM, "container.refused", "instance.never_ready"})


def advance(app: App, clients: Clients) -> bool:
    """One move of the app's rollout, of its queue, or of what was given up. Whether anything was changed."""
    rollout = app.rollouts.filter(status__in=Rollout.ACTIVE).select_related("app", "target__release", "source").first()
    if rollout is None:
        return _retire(app) or _begin(app)
    if rollout.target is None:
        return _undeploying(app, rollout)
    scene = _scene(app, rollout, rollout.target)
    if "traffic" not in rollout.evidence:
        rollout_noted(rollout=rollout, evidence={"traffic": snapshot(app, clients, containers=False)})
        rollout.refresh_from_db(fields=["evidence"])
    if rollout.phase == Phase.ENDING:
        return _ending(scene, clients)
    if _failing(scene, clients):
        return True
    move = next_move(scene, clients)
    if isinstance(move, Judgement):
        return _worse(scene, move, clients)
    if move is None:
        return _overdue(scene, clients)
    if not _moved(app, rollout, move):
        return False
    for delay_s in looks_after(rollout, move):
        jobs.enqueue_later(jobs.RECONCILE_APP, delay_s, app.pk)
    return True


def _moved(app: App, rollout: Rollout, move: Move) -> bool:
    reached("rollout.moving", app.slug)
    done = rollout_move(rollout=rollout, move=move)
    if done:
        move_made(app.slug, move)
    return done


def awaits_gateways(app: App) -> bool:
    """Whether the next move waits for nothing but the gateways' word that they have the last shift in force."""
    rollout = app.rollouts.filter(status=Status.PROGRESSING).exclude(switched_route=None).first()
    if rollout is None or rollout.switched_route is None or app.route_published < rollout.switched_route:
        return False
    return not served_by_all(epoch=app.route_epoch, zxid=app.route_zxid)


def _scene(app: App, rollout: Rollout, target: ReplicaSet) -> Scene:
    return Scene(
        app=app,
        rollout=rollout,
        target=target,
        source=rollout.source,
        ready=ready_of(target.pk),
        old_ready=0 if rollout.source_id is None else ready_of(rollout.source_id),
        in_force=_in_force(app, rollout),
    )


def _in_force(app: App, rollout: Rollout) -> bool:
    """Whether every live gateway does as the last shift says; one that never answers is not waited for without end."""
    if rollout.switched_route is None:
        return True
    if app.route_published < rollout.switched_route:
        return False
    if served_by_all(epoch=app.route_epoch, zxid=app.route_zxid):
        return True
    shifts = [one["at"] for one in rollout.timeline if "weight" in one]
    waited_since = datetime.fromisoformat(shifts[-1]) if shifts else rollout.phase_since
    if waited_since is None or now() < waited_since + timedelta(seconds=settings.DRAIN_DEADLINE_S):
        return False
    return not away()


# Ends -------------------------------------------------------------------------------------------------------------


def _ending(scene: Scene, clients: Clients) -> bool:
    """The target has the traffic as far as the database goes: it is over when the gateways do so too."""
    rollout = scene.rollout
    if scene.in_force:
        report = {"traffic": traffic_report(rollout, scene.app, clients)}
        reached("rollout.ending", scene.app.slug)
        ended = rollout_end(rollout=rollout, status=Status.SUCCEEDED, report=report)
        reached("rollout.ended", scene.app.slug)
        return ended
    if not passed(rollout):
        return False
    return rollout_end(
        rollout=rollout,
        status=Status.FAILED,
        code="rollout.unpublished",
        reason="All instances are ready, but their route is not published yet. The platform keeps trying.",
    )


def _undeploying(app: App, rollout: Rollout) -> bool:
    left = app.instances.filter(released=False).count()
    if not left:
        return rollout_end(rollout=rollout, status=Status.SUCCEEDED)
    if not passed(rollout):
        return False
    return rollout_end(
        rollout=rollout,
        status=Status.FAILED,
        code="rollout.deadline",
        reason=f"{left} instances could not be removed in time; the platform keeps trying.",
    )


def _failing(scene: Scene, clients: Clients) -> bool:
    began = scene.rollout.began_at or scene.rollout.created_at
    failures = list(own_failures(scene.target.pk, began)[:ROLLOUT_FAILURES])
    last = failures[0] if failures else None
    if last is None or (len(failures) < ROLLOUT_FAILURES and last.code not in FINAL_CODES):
        return False
    return _give_up(scene, last.code, last.reason, clients)


def _worse(scene: Scene, judgement: Judgement, clients: Clients) -> bool:
    rollout_noted(rollout=scene.rollout, evidence={"verdict": judgement.evidence})
    return _give_up(scene, judgement.worse, judgement.reason, clients, bad=True)


def _overdue(scene: Scene, clients: Clients) -> bool:
    rollout = scene.rollout
    if not passed(rollout):
        return False
    if rollout.status == Status.PAUSED:
        return _give_up(scene, "rollout.deadline", "It was paused, and nobody continued it.", clients)
    if not scene.in_force:
        return _give_up(scene, "rollout.unpublished", "Its route could not be published in time.", clients)
    failures = own_failures(scene.target.pk, rollout.began_at or rollout.created_at)
    last = failures.first()
    if last is not None:
        why, code = f" The last failure: {last.reason}", last.code
    else:
        code, why = _no_room(rollout)
    wanted = scene.target.wanted
    return _give_up(scene, code, f"{scene.ready} of {wanted} instances were ready in time.{why}", clients)


def _no_room(rollout: Rollout) -> tuple[str, str]:
    """Whether what is missing could not be placed, and why."""
    waiting = Event.objects.filter(app_id=rollout.app_id, code="placement.waiting")
    last = waiting.filter(at__gte=rollout.began_at or rollout.created_at).first()
    if rollout.target is None or rollout.target.retry_at is None or last is None:
        return "rollout.deadline", ""
    return str(last.detail.get("cause", "rollout.deadline")), f" {last.message}"


def _give_up(scene: Scene, code: str, reason: str, clients: Clients, *, bad: bool = False) -> bool:
    report = {"traffic": traffic_report(scene.rollout, scene.app, clients)}
    status = Status.ROLLED_BACK if scene.replaces else Status.FAILED
    reached("rollout.giving_up", scene.app.slug)
    ended = rollout_give_up(rollout=scene.rollout, status=status, code=code, reason=reason, bad=bad, report=report)
    reached("rollout.given_up", scene.app.slug)
    return ended


# Between rollouts -------------------------------------------------------------------------------------------------


def _begin(app: App) -> bool:
    """The next of the queue; one that waited for longer than anything may wait is given up."""
    waiting = app.rollouts.filter(status=Status.PENDING).select_related("app", "target__release__version")
    for rollout in waiting.order_by("number"):
        if passed(rollout):
            reason = "It waited in the queue for too long."
            return rollout_end(rollout=rollout, status=Status.FAILED, code="rollout.deadline", reason=reason)
        reached("rollout.beginning", app.slug)
        begun = rollout_begin(rollout=rollout, place=False)
        reached("rollout.begun", app.slug)
        return begun
    return False


def _retire(app: App) -> bool:
    """What was given up while it served goes as the version before comes back, and at its deadline in any case.

    That is later where nothing else serves, as long as what is to come back is on its way.
    """
    given_up = app.replica_sets.exclude(retiring_until=None).first()
    if given_up is None or given_up.retiring_until is None:
        return False
    sets = app.replica_sets.filter(wanted__gt=0, retiring_until=None)
    back = sum(min(one.wanted, ready_of(one.pk)) for one in sets)
    missing = sum(one.wanted for one in sets) - back
    ready = ready_of(given_up.pk)
    until = given_up.retiring_until
    if ready and not back and any(live_of(one.pk) for one in sets):
        until += timedelta(seconds=settings.ROLLOUT_DEADLINE_S)
    late = now() >= until and not away()
    wanted = 0 if late else max(0, min(given_up.wanted, missing))
    weight = share(min(ready, wanted), back)
    if wanted and wanted == given_up.wanted and weight == given_up.weight:
        return False
    done = retire(app_id=app.pk, replica_set=given_up, wanted=wanted, weight=weight)
    reached("set.retired", app.slug)
    return done
