"""One rollout as its page shows it: where it is, what it waits for, how it was judged, and what can be done now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.core.clock import now
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.selectors import RolloutMissing, queue_position, rollouts_of
from apps.deployments.services.moves import ready_of
from apps.deployments.services.reports import report_of, verdict_of
from apps.deployments.services.routing import served_by_all
from portal.web.rollout_words import STAGES, Text, step_words

Kind, Phase, Status = Rollout.Kind, Rollout.Phase, Rollout.Status

FAILURES_SHOWN = 5
#: By these a verdict speaks against the new version.
WORSE = frozenset({"rollout.unhealthier", "rollout.slower"})


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions. ``share`` of the traffic is per cent."""

    version: str
    release: int
    ready: int
    wanted: int
    share: int


@dataclass(frozen=True, slots=True)
class Step:
    words: str
    at: datetime
    took_s: float | None


@dataclass(frozen=True, slots=True)
class StageRow:
    words: Text
    instances: int
    median_s: float
    longest_s: float
    slowest: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """What one version answered. None: nobody knows. Times are milliseconds."""

    words: str
    requests: int | None
    errors: int | None
    p95_ms: float | None


def rollout_to_show(app: App, number: int) -> Rollout:
    """With both versions, without their env. Raises RolloutMissing."""
    rows = rollouts_of(app).select_related("app", "source__release__version")
    rollout = rows.defer("target__release__env", "source__release__env").filter(number=number).first()
    if rollout is None:
        raise RolloutMissing(f"{app.slug} has no rollout {number}.")
    return rollout


class RolloutPage:
    """Of a rollout that came from ``rollout_to_show``."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.removal = rollout.target is None
        self.open = rollout.status in Rollout.OPEN
        self.new = _side(rollout.target)
        self.old = _side(rollout.source)
        self.position = queue_position(rollout)
        self.report = report_of(rollout)
        self.verdict = verdict_of(rollout)

    @property
    def app(self) -> App:
        return self.rollout.app

    @property
    def replaces(self) -> bool:
        return self.old is not None and self.rollout.source_instances > 0

    @property
    def wanted(self) -> int:
        """How many of the new version there are to be in the end; of a global one the target knows it."""
        target = self.rollout.target
        return target.wanted if target and target.release.is_global else self.rollout.instances

    @property
    def canary_step(self) -> int:
        """From 1 on; 0 for what has no steps, or is past them."""
        steps = self.rollout.steps
        return self.rollout.step + 1 if steps and self.rollout.step < len(steps) else 0

    @property
    def steps(self) -> list[Step]:
        return [
            Step(step_words(one["step"]), datetime.fromisoformat(one["at"]), one["took_s"])
            for one in self.report["steps"]
        ]

    @property
    def stages(self) -> list[StageRow]:
        return [
            StageRow(
                STAGES.get(one["name"], one["name"]),
                one["instances"],
                one["median_s"],
                one["longest_s"],
                one["name"] == self.report["slowest"],
            )
            for one in self.report["stages"]
        ]

    @property
    def traffic(self) -> list[tuple[str, int]]:
        """What gateways counted meanwhile; empty where none could tell."""
        told: Mapping[str, Any] = self.report["traffic"]
        rows = (
            ("requests", _("Requests")),
            ("errors_5xx", _("Answered with 500 to 599")),
            ("unserved", _("Of these without any instance to answer")),
            ("broken", _("Answers that broke off")),
        )
        return [(words, told[key]) for key, words in rows if isinstance(told.get(key), int)]

    @property
    def traffic_incomplete(self) -> bool:
        return self.report["traffic"].get("complete") is False

    # How it was judged --------------------------------------------------------------------------------------------

    @property
    def compared(self) -> list[Compared]:
        rows = ((_("New version"), "new"), (_("Old version"), "old"))
        return [_compared(words, self.verdict[key]) for words, key in rows if isinstance(self.verdict.get(key), dict)]

    @property
    def verdict_words(self) -> str:
        rollout = self.rollout
        if rollout.code in WORSE:
            return _("The new version did worse, so it was rolled back.")
        if self.verdict:
            if self.verdict.get("unknown"):
                return _("No gateway could tell how the two versions answered.")
            if self.verdict.get("enough") is False:
                return _("There were too few requests to tell the two versions apart.")
            return _("Nothing spoke against the new version.")
        if not rollout.judge_s:
            return _("They were not compared: that was switched off.")
        if rollout.began_at and not self.replaces:
            return _("There was no old version to compare it with.")
        return _("They are not compared yet.") if self.open else _("It ended before the two were compared.")

    # What it waits for --------------------------------------------------------------------------------------------

    @property
    def waits_for(self) -> str:
        """In words; as reconcile.rollouts would decide on its next move. Empty for one that has ended."""
        rollout = self.rollout
        if not self.open:
            return ""
        if rollout.status == Status.PENDING:
            return ngettext(
                "It waits behind %(n)d other rollout of the app.",
                "It waits behind %(n)d other rollouts of the app.",
                self.position or 0,
            ) % {"n": self.position or 0}
        if self.removal:
            left = self.app.instances.filter(released=False).count()
            words = ngettext("%(n)d instance is to be removed.", "%(n)d instances are to be removed.", left)
            return words % {"n": left}
        if rollout.status == Status.PAUSED:
            return _("It waits for somebody to continue it. Both versions serve on as they do.")
        if rollout.phase == Phase.KEEPING:
            return _("The new version has all the traffic. The old one is kept, so that you can switch back at once.")
        return self._waits_for_instances() or self._waits_for_gateways() or self._waits_for_time()

    def _waits_for_instances(self) -> str:
        target = self.rollout.target
        if target is None or self.new is None or self.rollout.phase == Phase.ENDING:
            return ""
        missing = target.wanted - self.new.ready
        if missing <= 0:
            return ""
        live = target.instances.filter(released=False, status__in=Instance.LIVE).count()
        if live < target.wanted and target.retry_at is not None:
            return _("It waits for room on the hosts; the platform tries again by itself.")
        words = ngettext(
            "It waits for %(n)d new instance to become ready.",
            "It waits for %(n)d new instances to become ready.",
            missing,
        )
        return words % {"n": missing}

    def _waits_for_gateways(self) -> str:
        app, shift = self.app, self.rollout.switched_route
        if shift is None:
            return ""
        if app.route_published < shift:
            return _("It waits for the new route to be published.")
        if not served_by_all(epoch=app.route_epoch, zxid=app.route_zxid):
            return _("It waits for the gateways to confirm the new route.")
        return ""

    def _waits_for_time(self) -> str:
        rollout = self.rollout
        if rollout.phase == Phase.JUDGING:
            step = f"judged {rollout.step}"
            if rollout.judge_s and "judged" not in rollout.evidence and step not in rollout.evidence:
                return _("It compares how the two versions answer.")
            return _("It rests at this step; then it goes on by itself.")
        if rollout.phase == Phase.ENDING:
            return _("It waits for the gateways to confirm the new route.")
        return _("It is about to make its next move.")

    @property
    def rests_until(self) -> datetime | None:
        """When the pause of a canary's step, or the time for which the old version is kept, is over."""
        rollout = self.rollout
        if not self.open or rollout.phase_since is None or rollout.status != Status.PROGRESSING:
            return None
        seconds = 0
        if rollout.phase == Phase.KEEPING:
            seconds = rollout.keep_s
        elif rollout.phase == Phase.JUDGING and self.canary_step:
            seconds = rollout.steps[rollout.step]["pause_s"] or 0
        until = rollout.phase_since + timedelta(seconds=seconds)
        return until if until > now() else None

    # What went wrong ----------------------------------------------------------------------------------------------

    @cached_property
    def failures(self) -> list[Instance]:
        """The newest instances of the new version that ended badly while it was under way."""
        if self.rollout.target_id is None:
            return []
        rows = Instance.objects.filter(replica_set_id=self.rollout.target_id).exclude(code="")
        if self.rollout.ended_at is not None:
            rows = rows.filter(created_at__lte=self.rollout.ended_at)
        return list(rows.order_by("-status_since")[:FAILURES_SHOWN])

    # What can be done now -----------------------------------------------------------------------------------------

    @property
    def can_cancel(self) -> bool:
        waits = self.rollout.status == Status.PENDING
        return self.open and not self.removal and (waits or self.rollout.phase != Phase.ENDING)

    @property
    def can_pause(self) -> bool:
        return (
            self.rollout.status == Status.PROGRESSING
            and not self.removal
            and self.rollout.phase in (Phase.MOVING, Phase.JUDGING)
        )

    @property
    def can_continue(self) -> bool:
        return self.rollout.status == Status.PAUSED or (self.open and self.rollout.phase == Phase.KEEPING)

    @property
    def rollback_to(self) -> int | None:
        """The release that served before, where this rollout's own serves now."""
        target = self.rollout.target
        if self.rollout.status != Status.SUCCEEDED or target is None or not target.weight:
            return None
        return self.old.release if self.old else None


def _side(replica_set: ReplicaSet | None) -> Side | None:
    if replica_set is None:
        return None
    return Side(
        version=replica_set.release.version.tag,
        release=replica_set.release.number,
        ready=ready_of(replica_set.pk),
        wanted=replica_set.wanted,
        share=replica_set.weight,
    )


def _compared(words: str, told: Mapping[str, Any]) -> Compared:
    return Compared(words, told.get("requests"), told.get("errors_5xx"), told.get("p95_ms"))
