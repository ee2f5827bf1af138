"""How a rollout goes about it: what may be asked, checked and worked out to numbers. No database here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from apps.core.errors import Invalid
from apps.deployments.models import Rollout

Strategy = Rollout.Strategy

#: As Kubernetes does it by default, but never fewer than wanted. Per cent of the instances.
SURGE = "25%"
#: How long two versions are compared at most before a rollout goes on. Seconds.
JUDGE_S = 10
#: How long a blue-green rollout keeps the old version. Seconds.
KEEP_S = 300
#: The longest that may be asked for: what is kept, or paused, holds its claim on hosts and quota. Seconds.
LONGEST_S = 86400
MAX_STEPS = 20
CANARY = ({"weight": 10, "pause_s": 60}, {"weight": 50, "pause_s": 60})
_SHARE = re.compile(r"([0-9]{1,3})%")


class RolloutInvalid(Invalid):
    code = "rollouts.invalid"


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said of a rollout; None is the default of its strategy.

    ``max_surge`` and ``max_unavailable`` are numbers of instances, or a share such as ``"25%"`` (a surge is rounded up,
    what may be unavailable down). ``steps`` is the canary's way to 100: each a weight in per cent and ``pause_s``
    (None: until somebody continues it). ``supersede``: what is open or waits is given up for this one.
    """

    strategy: str = Strategy.ROLLING
    max_surge: int | str | None = None
    max_unavailable: int | str | None = None
    steps: Sequence[Mapping[str, Any]] | None = None
    keep_s: int | None = None
    judge_s: int | None = None
    supersede: bool = False


def resolved(options: Options, *, instances: int, is_global: bool) -> dict[str, Any]:
    """The columns of a Rollout for so many instances. Raises RolloutInvalid, which names the field."""
    if options.strategy not in Strategy.values:
        raise RolloutInvalid(f"strategy must be one of {', '.join(Strategy.values)}.", field="strategy")
    strategy = Strategy(options.strategy)
    for name, of in (("steps", Strategy.CANARY), ("keep_s", Strategy.BLUE_GREEN)):
        if getattr(options, name) is not None and strategy is not of:
            raise RolloutInvalid(f"{name} belongs to the strategy {of.value}.", field=name)
    if is_global and strategy is not Strategy.ROLLING and strategy is not Strategy.BLUE_GREEN:
        raise RolloutInvalid("A global app is rolled out blue-green: one more on each host, then all at once.")
    surge = _counted("max_surge", options.max_surge, SURGE, instances, up=True)
    down = _counted("max_unavailable", options.max_unavailable, 0, instances, up=False)
    if strategy is Strategy.ROLLING and surge == down == 0:
        raise RolloutInvalid("With max_surge and max_unavailable both 0 nothing could ever move.", field="max_surge")
    values: dict[str, Any] = {
        "strategy": strategy,
        "max_surge": surge,
        "max_unavailable": down,
        "judge_s": _seconds("judge_s", options.judge_s, JUDGE_S),
        "keep_s": _seconds("keep_s", options.keep_s, KEEP_S) if strategy is Strategy.BLUE_GREEN else 0,
        "steps": _steps(options.steps) if strategy is Strategy.CANARY else [],
    }
    if is_global:
        # One host takes one instance of each release: there is nothing to go step by step about.
        values.update(strategy=Strategy.BLUE_GREEN, keep_s=options.keep_s or 0)
    if strategy is Strategy.IN_PLACE:
        values.update(max_surge=0, max_unavailable=max(1, down))
    return values


def share(new: int, old: int) -> int:
    """The new version's share of the traffic in per cent, so that each ready instance gets as much as any other."""
    if not new:
        return 0
    return 100 if not old else min(99, max(1, round(100 * new / (new + old))))


def first_batch(rollout: Rollout) -> int:
    """How many of the target are placed when a rollout begins that has something to replace."""
    if rollout.strategy == Strategy.BLUE_GREEN:
        return rollout.instances
    if rollout.strategy == Strategy.CANARY:
        return batch_of(rollout)
    if rollout.strategy == Strategy.IN_PLACE:
        return 0
    room = rollout.instances + rollout.max_surge - rollout.source_instances
    return max(0, min(rollout.instances, room))


def batch_of(rollout: Rollout) -> int:
    """How many of the target the canary's present step needs: its share of them, and all after the last step."""
    if rollout.step >= len(rollout.steps):
        return rollout.instances
    weight = int(rollout.steps[rollout.step]["weight"])
    return max(1, min(rollout.instances, ceil(rollout.instances * weight / 100)))


def _counted(name: str, asked: int | str | None, default: int | str, instances: int, *, up: bool) -> int:
    value = default if asked is None else asked
    if isinstance(value, str):
        matched = _SHARE.fullmatch(value)
        if matched is None or int(matched[1]) > 100:
            raise RolloutInvalid(f"{name} must be a number of instances, or a share such as 25%.", field=name)
        exact = instances * int(matched[1]) / 100
        return ceil(exact) if up else int(exact)
    if not 0 <= value <= 500:
        raise RolloutInvalid(f"{name} must be between 0 and 500, or a share such as 25%.", field=name)
    return value


def _seconds(name: str, asked: int | None, default: int) -> int:
    value = default if asked is None else asked
    if not 0 <= value <= LONGEST_S:
        raise RolloutInvalid(f"{name} must be between 0 and {LONGEST_S} seconds.", field=name)
    return value


def _steps(asked: Sequence[Mapping[str, Any]] | None) -> list[dict[str, int | None]]:
    steps: list[dict[str, int | None]] = []
    last = 0
    given = CANARY if asked is None else asked
    if not 1 <= len(given) <= MAX_STEPS:
        raise RolloutInvalid(f"A canary has 1 to {MAX_STEPS} steps.", field="steps")
    for one in given:
        weight, pause = one.get("weight"), one.get("pause_s")
        if type(weight) is not int or not last < weight <= 99:
            raise RolloutInvalid("Each step's weight must be more than the one before, from 1 to 99.", field="steps")
        if pause is not None and (type(pause) is not int or not 0 <= pause <= LONGEST_S):
            raise RolloutInvalid(f"pause_s must be between 0 and {LONGEST_S}, or null.", field="steps")
        steps.append({"weight": weight, "pause_s": pause})
        last = weight
    return steps
