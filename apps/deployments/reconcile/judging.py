"""Whether a new version answers worse through the gateways than the old one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apps.core.clock import now
from apps.deployments.models import App, Rollout
from apps.deployments.reconcile.clients import Clients


@dataclass(frozen=True, slots=True)
class Judgement:
    """``worse`` is the code of why it is to be rolled back, empty while there is nothing to say against it."""

    done: bool
    worse: str = ""
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


def snapshot(app: App, clients: Clients) -> dict[str, Any]:
    return {}


def judged(rollout: Rollout, app: App, clients: Clients) -> Judgement:
    waited = rollout.phase_since is None or (now() - rollout.phase_since).total_seconds() >= 0
    return Judgement(done=waited)


def traffic_report(rollout: Rollout, app: App, clients: Clients) -> dict[str, Any]:
    return {}
