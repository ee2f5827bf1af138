"""Which move a rollout makes next: read what is there, decide, and leave the writing to services.moves.

For each instance that is replaced the order is: the new one ready, published, acknowledged by every live gateway; only
then is an old one taken away (unpublished, acknowledged, stopped, removed: reconcile.instance does that).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from apps.core import jobs
from apps.core.clock import now
from apps.core.duties import away
from apps.core.failpoints import reached
from apps.core.models import Event
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.judging import LEAST_S, QUIET_S, Judgement, judged, snapshot, traffic_report
from apps.deployments.reconcile.steps import move_made
from apps.deployments.selectors import live_of, own_failures
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
from apps.deployments.services.rollouts import next_step
from apps.deployments.services.routing import served_by_all
from apps.deployments.services.strategies import batch_of, share

Phase, Status, Strategy = Rollout.Phase, Rollout.Status, Rollout.Strategy

#: A rollout whose instances fail this often is given up before its deadline.
ROLLOUT_FAILURES = 3
#: Failures that another try can't mend, or that took so long to show that another try is not worth the wait.
FINAL_CODES = frozenset({"image.not_found", "container.refused", "instance.never_ready"})


@dataclass(frozen=True, slots=True)
class Scene:
    """A rollout and what is there: ready instances of both sides, and whether gateways have its last shift in force."""

    app: App
    rollout: Rollout
    target: ReplicaSet
    source: ReplicaSet | None
    ready: int
    old_ready: int
    in_force: bool

    @property
    def replaces(self) -> bool:
        """Whether something served before it."""
        return self.source is not None and self.rollout.source_instances > 0

    @property
    def wanted(self) -> int:
        """How many of the target there are to be in the end; a global one has as many as there are hosts."""
        return self.target.wanted if self.target.release.is_global else self.rollout.instances


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
    move = _next(scene, clients)
    if isinstance(move, Judgement):
        return _worse(scene, move, clients)
    if move is None:
        return _overdue(scene, clients)
    if not _moved(app, rollout, move):
        return False
    for delay_s in _looks(rollout, move):
        jobs.enqueue_later(jobs.RECONCILE_APP, delay_s, app.pk)
    return True


def _looks(rollout: Rollout, move: Move) -> set[float]:
    """After how many seconds it may go on for no other reason than that time has passed."""
    moment = 0.1
    if move.phase == Phase.KEEPING:
        return {rollout.keep_s + moment}
    if move.phase != Phase.JUDGING:
        return set()
    pause = rollout.steps[rollout.step]["pause_s"] if rollout.step < len(rollout.steps) else None
    times = {LEAST_S, QUIET_S, float(rollout.judge_s)} if rollout.judge_s else set()
    return {one + moment for one in (times if pause is None else {*times, float(pause)})}


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


# What the phases do -----------------------------------------------------------------------------------------------


def _next(scene: Scene, clients: Clients) -> Move | Judgement | None:
    """The next move; a Judgement that the new version is worse; None: there is something to wait for."""
    rollout = scene.rollout
    if not scene.replaces:
        return _first(scene)
    if rollout.strategy in (Strategy.ROLLING, Strategy.IN_PLACE):
        move = _by_count(scene) or _judging(scene, clients)
        if move is not None or not scene.in_force or rollout.status == Status.PAUSED or rollout.phase == Phase.JUDGING:
            return move
        return _rolling(scene) if rollout.strategy == Strategy.ROLLING else _in_place(scene)
    if rollout.phase == Phase.MOVING:
        return _bring_up(scene, clients)
    if not scene.in_force:
        return None
    if rollout.phase == Phase.KEEPING:
        return _kept(scene)
    return _judging(scene, clients) or _after_shift(scene)


def _first(scene: Scene) -> Move | None:
    """Nothing to replace: it has the traffic from its first ready instance on, and is through when all are ready."""
    if scene.rollout.status == Status.PAUSED or scene.ready < scene.wanted:
        return None
    return Move(weight=100, phase=Phase.ENDING, mark="all ready")


def _by_count(scene: Scene) -> Move | None:
    """Each ready instance gets as much as any other, whichever version it is of."""
    if not scene.ready and scene.target.weight == 0:
        return None
    weight = share(scene.ready, scene.old_ready)
    if weight == scene.target.weight or not (scene.ready or scene.old_ready):
        return None
    return Move(weight=weight, mark=f"{scene.ready} new ready")


def _judging(scene: Scene, clients: Clients) -> Move | Judgement | None:
    """Compare the two once the new one is in traffic; again for each step of a canary."""
    rollout = scene.rollout
    stepwise = rollout.strategy in (Strategy.ROLLING, Strategy.IN_PLACE)
    key = "judged" if stepwise else f"judged {rollout.step}"
    if not rollout.judge_s or not scene.in_force or not scene.ready:
        return None
    if rollout.phase != Phase.JUDGING and key in rollout.evidence:
        # It was let through by its first answers; with more of it in traffic it may turn out worse all the same.
        later = judged(rollout, scene.app, clients)
        return later if later.worse else None
    if rollout.phase != Phase.JUDGING:
        return Move(phase=Phase.JUDGING, evidence={"before": snapshot(scene.app, clients)}, mark="comparing")
    judgement = judged(rollout, scene.app, clients)
    if judgement.worse:
        return judgement
    if key in rollout.evidence or not judgement.done:
        return None
    noted = {key: judgement.evidence}
    if stepwise:
        return Move(phase=Phase.MOVING, evidence=noted, mark="compared")
    return Move(evidence=noted, mark="compared")


def _rolling(scene: Scene) -> Move | None:
    rollout, target, source = scene.rollout, scene.target, scene.source
    if source is None:
        return None
    if scene.ready >= scene.wanted and target.wanted >= scene.wanted:
        return Move(source_wanted=0, weight=100, phase=Phase.ENDING, mark="all ready")
    # So many of the old ones can go, the unready first: they serve nobody.
    spare = max(0, scene.ready + scene.old_ready - (scene.wanted - rollout.max_unavailable))
    kept = scene.old_ready - min(scene.old_ready, spare)
    if kept < source.wanted and (scene.ready or spare):
        return Move(source_wanted=kept, weight=share(scene.ready, kept), mark=f"{kept} old left")
    room = scene.wanted + rollout.max_surge - target.wanted - source.wanted
    more = min(room, scene.wanted - target.wanted)
    if more > 0:
        return Move(target_wanted=target.wanted + more, mark=f"{target.wanted + more} new wanted")
    if scene.ready >= target.wanted and scene.old_ready < source.wanted:
        # Nothing is on its way, and there is no room for more: old ones that serve nobody make it.
        left = scene.wanted + rollout.max_surge - target.wanted - max(1, rollout.max_unavailable)
        left = max(scene.old_ready, left)
        return Move(source_wanted=left, mark=f"{left} old left") if left < source.wanted else None
    return None


def _in_place(scene: Scene) -> Move | None:
    """One of the target takes the place of one of the source, so many at a time."""
    rollout, target, source = scene.rollout, scene.target, scene.source
    if source is None:
        return None
    if scene.ready >= scene.wanted and target.wanted >= scene.wanted:
        return Move(source_wanted=0, weight=100, phase=Phase.ENDING, mark="all ready")
    if source.wanted > max(0, scene.wanted - target.wanted):
        kept = max(0, scene.wanted - target.wanted)
        return Move(source_wanted=kept, mark=f"{kept} old left")
    on_their_way = target.wanted - scene.ready
    # There may be more old ones than are wanted, while one moves to another host.
    room = max(0, min(rollout.max_unavailable - on_their_way, source.wanted))
    # Those that serve nobody first; and of those that are not there (it crashes, there was no room) nothing is left
    # to wait for.
    olds = sorted(live_of(source.pk), key=lambda one: one.status == Instance.Status.HEALTHY)
    chosen = tuple(olds[:room])
    taken = len(chosen) + max(0, min(room - len(chosen), source.wanted - len(olds)))
    if taken:
        serving = sum(one.status == Instance.Status.HEALTHY for one in chosen)
        return Move(
            rebuild=chosen,
            source_wanted=source.wanted - taken,
            target_wanted=target.wanted + taken,
            weight=share(scene.ready, max(0, scene.old_ready - serving)) or target.weight,
            mark=f"{taken} rebuilt in place",
        )
    if not source.wanted and target.wanted < scene.wanted and on_their_way <= 0:
        return Move(target_wanted=scene.wanted, mark=f"{scene.wanted} new wanted")
    return None


def _bring_up(scene: Scene, clients: Clients) -> Move | None:
    """Blue-green, and each step of a canary: when all that the step needs are ready, its share of traffic moves."""
    rollout = scene.rollout
    need = scene.wanted if rollout.strategy == Strategy.BLUE_GREEN else batch_of(rollout)
    if scene.target.wanted < need:
        return Move(target_wanted=need, mark=f"{need} new wanted")
    if rollout.status == Status.PAUSED or scene.ready < need:
        return None
    last = rollout.step >= len(rollout.steps)
    weight = 100 if last else int(rollout.steps[rollout.step]["weight"])
    before = {"before": snapshot(scene.app, clients)}
    return Move(weight=weight, phase=Phase.JUDGING, evidence=before, mark=f"{weight} % of the traffic")


def _after_shift(scene: Scene) -> Move | None:
    """The share has moved and gateways do as it says."""
    rollout = scene.rollout
    if rollout.status == Status.PAUSED or (rollout.judge_s and f"judged {rollout.step}" not in rollout.evidence):
        return None
    if rollout.step < len(rollout.steps):
        pause = rollout.steps[rollout.step]["pause_s"]
        if pause is None:
            return Move(status=Status.PAUSED, mark="waits to be continued")
        return next_step(rollout, mark="next step") if _rested(rollout, pause) else None
    if scene.ready < scene.wanted:
        # Some ended since. The old version does not go before the new one can do without it.
        return None
    if rollout.keep_s:
        return Move(phase=Phase.KEEPING, mark="old version kept")
    return Move(phase=Phase.ENDING, mark="old version goes")


def _kept(scene: Scene) -> Move | None:
    """The old version is kept for a while, or until the next rollout wants to begin; and until the new one is ready."""
    rollout = scene.rollout
    if scene.ready < scene.wanted:
        return None
    waiting = scene.app.rollouts.filter(status=Status.PENDING).exists()
    if waiting or _rested(rollout, rollout.keep_s):
        return Move(phase=Phase.ENDING, mark="old version goes")
    return None


def _rested(rollout: Rollout, seconds: int) -> bool:
    return rollout.phase_since is None or now() >= rollout.phase_since + timedelta(seconds=seconds)


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
