"""What beat sends, and how often (seconds). Each message expires when the next one is due: none pile up."""

from __future__ import annotations

from typing import Any


def _every(seconds: float, task: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds, "options": {"expires": seconds}}


SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep": _every(2, "deployments.sweep"),
    "observe": _every(2, "deployments.observe_hosts"),
    "probe": _every(2, "deployments.probe"),
    "gateways": _every(2, "deployments.gateways"),
    "discovery": _every(30, "deployments.rebuild_discovery"),
    "registry": _every(20, "registry.list"),
}
