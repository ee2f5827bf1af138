"""What one word says about an app: a pure function of a few numbers."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from apps.deployments.models import Rollout


class AppState(enum.StrEnum):
    NEW = "new"
    DEPLOYING = "deploying"
    RUNNING = "running"
    DEGRADED = "degraded"
    DOWN = "down"
    ASLEEP = "asleep"
    UNDEPLOYING = "undeploying"
    FAILED = "failed"
    STOPPED = "stopped"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Facts:
    """``last`` is the status of the rollout that is under way or waits, else of the latest; empty if there is none.

    ``removal`` says that it undeploys; ``asleep`` that the release which would serve is scaled to no instances.
    """

    ready: int
    wanted: int
    held: int
    last: str = ""
    removal: bool = False
    deleting: bool = False
    asleep: bool = False


def state_of(facts: Facts) -> AppState:
    if facts.deleting:
        return AppState.DELETING
    if facts.last in Rollout.OPEN:
        return AppState.UNDEPLOYING if facts.removal else AppState.DEPLOYING
    if facts.wanted:
        if facts.ready >= facts.wanted:
            return AppState.RUNNING
        return AppState.DEGRADED if facts.ready else AppState.DOWN
    if facts.asleep:
        return AppState.ASLEEP
    if facts.removal and facts.held:
        return AppState.UNDEPLOYING
    if facts.last in (Rollout.Status.FAILED, Rollout.Status.ROLLED_BACK) and not facts.removal:
        return AppState.FAILED
    return AppState.STOPPED if facts.last else AppState.NEW
