"""What a rollout does next, by its strategy and its phase: decisions only, read from what is there.

For each instance that is replaced the order is: the new one ready, published, acknowledged by every live gateway; only
then is an old one taken away (unpublished, acknowledged, stopped, removed: reconcile.instance does that).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from apps.core.clock import now
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.judging import LEAST_S, QUIET_S, Judgement, judged, snapshot
from apps.deployments.selectors import live_of
from apps.deployments.services.moves import Move
from apps.deployments.services.rollouts import next_step
from apps.deployments.services.strategies import batch_of, share

Phase, Status, Strategy = Rollout.Phase, Rollout.Status, Rollout.Strategy


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


def next_move(scene: Scene, clients: Clients) -> Move | Judgement | None:
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


def looks_after(rollout: Rollout, move: Move) -> set[float]:
    """After how many seconds it may go on for no other reason than that time has passed."""
    moment = 0.1
    if move.phase == Phase.KEEPING:
        return {rollout.keep_s + moment}
    if move.phase != Phase.JUDGING:
        return set()
    pause = rollout.steps[rollout.step]["pause_s"] if rollout.step < len(rollout.steps) else None
    times = {LEAST_S, QUIET_S, float(rollout.judge_s)} if rollout.judge_s else set()
    return {one + moment for one in (times if pause is None else {*times, float(pause)})}
