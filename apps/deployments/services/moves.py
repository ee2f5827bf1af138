"""A rollout's moves, as reconcile decides on them. Each is one transaction that holds the app's row.

A move is carried out only where the rollout still is where the decision found it; else nothing happens, and the next
pass decides anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.services.apps import app_locked, route_touch
from apps.deployments.services.instances import instance_drain
from apps.deployments.services.placement import instances_place, placed_announce
from apps.deployments.services.strategies import LONGEST_S, first_batch, share

Phase, Status = Rollout.Phase, Rollout.Status

#: Keys of a rollout's evidence that hold gateways' counters as they were at some moment.
SNAPSHOTS = ("before", "traffic")
#: Of one rollout so many lines are kept.
TIMELINE = 200
#: So long at most the given up version serves beside the old one while that one is brought back to its number. Seconds.
RETIRE_S = 60


@dataclass(frozen=True, slots=True)
class Move:
    """What changes; None stays. ``weight`` is the target's share of the traffic, the rest is the source's."""

    target_wanted: int | None = None
    source_wanted: int | None = None
    weight: int | None = None
    status: str | None = None
    phase: str | None = None
    step: int | None = None
    #: Instances of the source whose places the target takes over.
    rebuild: tuple[Instance, ...] = ()
    evidence: Mapping[str, Any] | None = None
    mark: str = ""


def ready_of(replica_set_id: int) -> int:
    """Healthy instances of the set; one that another of them replaces is about to go: the two are one."""
    healthy = Instance.objects.filter(
        replica_set_id=replica_set_id, status=Instance.Status.HEALTHY, released=False, rebuild_as=None
    )
    # Two plain counts: as one query with a subquery the planner went through the set once for each of its instances.
    replaced = list(healthy.filter(replaces__isnull=False).order_by().values_list("replaces_id", flat=True))
    return healthy.count() - (healthy.filter(pk__in=replaced).count() if replaced else 0)


@transaction.atomic
def rollout_move(*, rollout: Rollout, move: Move) -> bool:
    """Carry it out, and give the rollout its time anew. False where the rollout has been moved by somebody else."""
    app_locked(rollout.app_id)
    # Every move sets another deadline.
    rows = Rollout.objects.filter(pk=rollout.pk, status=rollout.status, deadline_at=rollout.deadline_at)
    if not rows.exists() or rollout.target_id is None:
        return False
    target = ReplicaSet.objects.filter(pk=rollout.target_id)
    others = ReplicaSet.objects.filter(app_id=rollout.app_id).exclude(pk=rollout.target_id)
    source = others.filter(pk=rollout.source_id or 0)
    if move.target_wanted is not None:
        target.update(wanted=move.target_wanted)
    if move.source_wanted is not None:
        source.update(wanted=move.source_wanted)
    for one in move.rebuild:
        instance_drain(instance=one, rebuild_as=rollout.target_id)
    at = now()
    changes: dict[str, Any] = {"deadline_at": _deadline(rollout, move)}
    if move.weight is not None:
        target.update(weight=move.weight)
        source.update(weight=100 - move.weight)
    if move.phase == Phase.ENDING:
        others.exclude(wanted=0, weight=0, retiring_until=None).update(wanted=0, weight=0, retiring_until=None)
    route_touch(app_id=rollout.app_id)
    if move.weight is not None or move.phase == Phase.ENDING:
        changes["switched_route"] = App.objects.values_list("route_wanted", flat=True).get(pk=rollout.app_id)
    for name in ("status", "phase", "step"):
        if (value := getattr(move, name)) is not None:
            changes[name] = value
    if move.phase is not None:
        changes["phase_since"] = at
    if move.evidence is not None:
        changes["evidence"] = {**rollout.evidence, **move.evidence}
    if move.mark:
        entry = {"step": move.mark, "at": at.isoformat()}
        if move.weight is not None:
            entry["weight"] = str(move.weight)
        changes["timeline"] = [*rollout.timeline, entry][-TIMELINE:]
    done = bool(rows.update(**changes))
    if done and (move.phase is not None or move.step is not None or move.status is not None):
        _told(rollout, move)
    return done


def _deadline(rollout: Rollout, move: Move) -> datetime:
    """Getting on gives time anew. Following along while somebody has paused it does not, nor do shares that follow who
    is ready: one that is ready and unready in turns would have it without end.
    """
    if move.status == Status.PAUSED:
        return after(LONGEST_S)
    on = (move.target_wanted, move.source_wanted, move.status, move.phase, move.step, move.evidence)
    follows = not move.rebuild and all(one is None for one in on)
    if follows or (move.status is None and rollout.status == Status.PAUSED):
        return rollout.deadline_at + timedelta(microseconds=1)
    return after(settings.ROLLOUT_DEADLINE_S + _rest_s(rollout, move))


def _rest_s(rollout: Rollout, move: Move) -> int:
    """How long the phase that it enters, or is in, may take beside what a step may take anyway. Seconds."""
    phase = move.phase or rollout.phase
    if phase == Phase.KEEPING:
        return rollout.keep_s
    if phase == Phase.JUDGING:
        step = rollout.step if move.step is None else move.step
        pause = rollout.steps[step]["pause_s"] if step < len(rollout.steps) else 0
        return max(rollout.judge_s, pause or 0)
    return 0


_WORDS = {
    Phase.MOVING: "goes on to the next step",
    Phase.JUDGING: "has new instances in traffic; they are compared with the old ones",
    Phase.KEEPING: "has moved the traffic; the old version is kept for a switch back",
    Phase.ENDING: "takes the old version down",
}


def _told(rollout: Rollout, move: Move) -> None:
    paused = move.status == Status.PAUSED
    words = "waits to be continued" if paused else _WORDS[Phase(move.phase or rollout.phase)]
    if move.phase == Phase.ENDING and not rollout.source_instances:
        words = "has all its instances ready"
    traffic = "" if move.weight is None else f" The new version has {move.weight} % of the traffic."
    events.record(
        "rollout.paused" if paused else "rollout.step",
        f"Rollout {rollout.number} {words}.{traffic}",
        tenant_id=rollout.app.tenant_id,
        app_id=rollout.app_id,
        rollout=rollout.number,
        phase=move.phase or rollout.phase,
    )


@transaction.atomic
def rollout_noted(*, rollout: Rollout, evidence: Mapping[str, Any]) -> bool:
    """Keep what was seen, without moving or giving time."""
    app_locked(rollout.app_id)
    rows = Rollout.objects.filter(pk=rollout.pk, status__in=Rollout.ACTIVE)
    held = rows.values_list("evidence", flat=True).first()
    return held is not None and bool(rows.update(evidence={**held, **evidence}))


@transaction.atomic
def rollout_begin(*, rollout: Rollout, place: bool) -> bool:
    """Out of the queue. ``place``: its first instances in this very transaction, so that whoever asks hears of it
    where there is no room; otherwise reconcile places them, and tries until the rollout's deadline.

    False where another one of the app is under way, or it has begun or ended. Raises what a placement raises.
    """
    app = app_locked(rollout.app_id)
    busy = app.rollouts.filter(status__in=Rollout.ACTIVE).exists()
    if busy or rollout.target_id is None or app.replica_sets.exclude(retiring_until=None).exists():
        return False
    others = app.replica_sets.exclude(pk=rollout.target_id)
    source = others.filter(weight__gt=0, retiring_until=None).order_by("-weight", "-pk").first()
    rollout.source, rollout.source_instances = source, source.wanted if source else 0
    serving = bool(source and source.wanted)
    at = now()
    begun = Rollout.objects.filter(pk=rollout.pk, status=Status.PENDING).update(
        status=Status.PROGRESSING,
        source=source,
        source_instances=rollout.source_instances,
        began_at=at,
        phase_since=at,
        deadline_at=after(settings.ROLLOUT_DEADLINE_S),
        timeline=[*rollout.timeline, {"step": "began", "at": at.isoformat()}],
    )
    if not begun:
        return False
    if source is not None and not serving:
        others.filter(pk=source.pk).update(weight=0)
    count = first_batch(rollout) if serving else rollout.instances
    ReplicaSet.objects.filter(pk=rollout.target_id).update(wanted=count, weight=0 if serving else 100)
    rollout.refresh_from_db()
    if rollout.target is None:
        return False
    if place and count:
        placed_announce(instances_place(replica_set=rollout.target, count=count))
    release = rollout.target.release
    events.record(
        "rollout.started",
        f"Rolling out {release.version.tag} as release {release.number} with {rollout.instances} instances.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=rollout.created_by,
        rollout=rollout.number,
        release=release.number,
    )
    route_touch(app_id=app.pk)
    return True


@transaction.atomic
def rollout_end(
    *,
    rollout: Rollout,
    status: str,
    code: str = "",
    reason: str = "",
    actor: str = "",
    report: Mapping[str, Any] | None = None,
) -> bool:
    """Compare-and-swap an open rollout to its end. False where somebody ended it before."""
    at = now()
    rows = Rollout.objects.filter(pk=rollout.pk, status__in=Rollout.OPEN)
    # Whole snapshots of counters were kept for the comparisons; what came of those stays.
    evidence = rows.values_list("evidence", flat=True).first() or {}
    ended = rows.update(
        evidence={key: value for key, value in evidence.items() if key not in SNAPSHOTS},
        status=status,
        code=code,
        reason=reason[:2000],
        ended_at=at,
        timeline=[*rollout.timeline, {"step": "ended", "at": at.isoformat()}][-TIMELINE:],
        **({} if report is None else {"report": dict(report)}),
    )
    if ended:
        events.record(
            f"rollout.{status}",
            f"Rollout {rollout.number} {status.replace('_', ' ')}. {reason[:500]}".strip(),
            level="info" if status in (Status.SUCCEEDED, Status.CANCELLED) else "warning",
            tenant_id=rollout.app.tenant_id,
            app_id=rollout.app_id,
            actor=actor,
            rollout=rollout.number,
            cause=code,
        )
        if rollout.strategy == Rollout.Strategy.CANARY:
            # Nobody may ask for it any more.
            route_touch(app_id=rollout.app_id)
        # What waits behind it may begin.
        jobs.enqueue(jobs.RECONCILE_APP, rollout.app_id)
    return bool(ended)


@transaction.atomic
def rollout_give_up(
    *,
    rollout: Rollout,
    status: str,
    code: str,
    reason: str,
    actor: str = "",
    bad: bool = False,
    report: Mapping[str, Any] | None = None,
) -> bool:
    """End it without success: the version before has the traffic again, as many instances as it had.

    Where some of those are gone already, what the new version has serves beside them until they are back; of a ``bad``
    version only if there is no other. False where somebody ended it before.
    """
    app_locked(rollout.app_id)
    if not rollout_end(rollout=rollout, status=status, code=code, reason=reason, actor=actor, report=report):
        return False
    target = ReplicaSet.objects.filter(pk=rollout.target_id or 0)
    Instance.objects.filter(rebuild_as=rollout.target_id, released=False).update(rebuild_as=None)
    source = None if rollout.source_id is None else ReplicaSet.objects.filter(pk=rollout.source_id)
    if source is None:
        target.update(wanted=0, weight=0, retiring_until=None)
    else:
        back = ready_of(rollout.source_id or 0)
        missing = rollout.source_instances - back
        ready = ready_of(rollout.target_id or 0)
        source.update(wanted=rollout.source_instances)
        if missing <= 0 or not ready or (bad and back):
            target.update(wanted=0, weight=0, retiring_until=None)
            source.update(weight=100)
        else:
            stays = min(ready, missing)
            target.update(wanted=stays, weight=share(stays, back), retiring_until=after(RETIRE_S))
            source.update(weight=100 - share(stays, back))
    route_touch(app_id=rollout.app_id)
    return True


@transaction.atomic
def retire(*, app_id: int, replica_set: ReplicaSet, wanted: int, weight: int) -> bool:
    """A given up set on its way out beside the one that serves: so many of it still, with this share."""
    app_locked(app_id)
    changes: dict[str, Any] = {"wanted": wanted, "weight": weight if wanted else 0}
    if not wanted:
        changes["retiring_until"] = None
    rows = ReplicaSet.objects.filter(pk=replica_set.pk, retiring_until=replica_set.retiring_until)
    if replica_set.retiring_until is None or not rows.update(**changes):
        return False
    others = ReplicaSet.objects.filter(app_id=app_id, wanted__gt=0, retiring_until=None).exclude(pk=replica_set.pk)
    others.update(weight=100 - changes["weight"])
    route_touch(app_id=app_id)
    return True
