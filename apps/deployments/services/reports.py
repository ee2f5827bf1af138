"""The switch report of a rollout: what took how long, and what the gateways saw meanwhile. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from apps.deployments.models import Instance, Rollout

#: What an instance goes through, as pairs of its columns; new ones first, then those that they replace.
_NEW = (("start", "created_at", "running_at"), ("become ready", "running_at", "ready_at"))
_OLD = (("leave the gateways", "leaving_at", "unrouted_at"), ("stop and be removed", "unrouted_at", "released_at"))


@dataclass(frozen=True, slots=True)
class Stage:
    """How long one stage took over all instances that went through it. Seconds."""

    name: str
    instances: int
    median_s: float
    longest_s: float


def report_of(rollout: Rollout) -> dict[str, Any]:
    """Steps with their times, stages of instances, the slowest of them, and the traffic that gateways counted.

    ``traffic`` is empty where no gateway could tell. Of an open rollout it is the report so far.
    """
    steps = _steps(rollout)
    began = rollout.began_at or rollout.created_at
    stages = [*_stages(_of(rollout.target_id, began), _NEW), *_stages(_of(rollout.source_id, began), _OLD)]
    slowest = max(stages, key=lambda one: one.longest_s, default=None)
    ended = rollout.ended_at
    return {
        "took_s": None if ended is None else round((ended - began).total_seconds(), 3),
        "waited_s": round((began - rollout.created_at).total_seconds(), 3),
        "steps": steps,
        "stages": [
            {"name": one.name, "instances": one.instances, "median_s": one.median_s, "longest_s": one.longest_s}
            for one in stages
        ],
        "slowest": "" if slowest is None else slowest.name,
        "traffic": rollout.report.get("traffic", {}),
    }


def verdict_of(rollout: Rollout) -> dict[str, Any]:
    """How it was judged: the last comparison, or the one for which it was rolled back. Empty where it was not."""
    if "verdict" in rollout.evidence:
        return dict(rollout.evidence["verdict"])
    compared = [rollout.evidence[key] for key in sorted(rollout.evidence) if key.startswith("judged")]
    return dict(compared[-1]) if compared else {}


def _steps(rollout: Rollout) -> list[dict[str, Any]]:
    """What happened, when, and how long it was until the next."""
    times = [datetime.fromisoformat(one["at"]) for one in rollout.timeline]
    return [
        {
            "step": one["step"],
            "at": one["at"],
            "took_s": round((times[n + 1] - times[n]).total_seconds(), 3) if n + 1 < len(times) else None,
        }
        for n, one in enumerate(rollout.timeline)
    ]


def _of(replica_set_id: int | None, began: datetime) -> list[dict[str, Any]]:
    columns = sorted({name for _, *names in (*_NEW, *_OLD) for name in names})
    if replica_set_id is None:
        return []
    # Of the old ones those that left before have nothing to do with this rollout.
    rows = Instance.objects.filter(replica_set_id=replica_set_id).order_by("-pk").values(*columns)[:500]
    return [row for row in rows if row["leaving_at"] is None or row["leaving_at"] >= began]


def _stages(rows: Iterable[dict[str, Any]], names: tuple[tuple[str, str, str], ...]) -> list[Stage]:
    kept = list(rows)
    stages = []
    for name, start, end in names:
        took = [(row[end] - row[start]).total_seconds() for row in kept if row[start] and row[end]]
        took = [one for one in took if one >= 0]
        if took:
            stages.append(Stage(name, len(took), round(median(took), 3), round(max(took), 3)))
    return stages
