"""What beat sends, and how often (seconds).

A message expires, so that none pile up while no worker is there; late, since clocks differ and a message that expires
before it arrives would silently stop the loop. What is late all the same finds that its duty was done a moment ago.
"""

from __future__ import annotations

from typing import Any

EXPIRES_S = 30


def _every(seconds: float, task: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds, "options": {"expires": max(EXPIRES_S, seconds)}}


#: Without these nothing else is found: they have a queue of their own, which every worker of apps empties first.
DUTIES_OFTEN = ("deployments.sweep", "deployments.observe_hosts", "deployments.probe", "deployments.gateways")

SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep": _every(2, "deployments.sweep"),
    "observe": _every(2, "deployments.observe_hosts"),
    "probe": _every(2, "deployments.probe"),
    "gateways": _every(2, "deployments.gateways"),
    "access_log": _every(2, "deployments.access_log"),
    "discovery": _every(30, "deployments.rebuild_discovery"),
    "domains": _every(10, "deployments.domains"),
    "pushes": _every(5, "deployments.pushes"),
    # A duty of once a day, asked about more often: beat counts from its own start.
    "capsules": _every(3600, "deployments.capsules"),
    "certificates": _every(3, "deployments.certificates"),
    "images": _every(30, "deployments.images"),
    "retention": _every(120, "deployments.retention"),
    "registry": _every(10, "registry.list"),
    "registry_describe": _every(5, "registry.describe_due"),
    "registry_clean": _every(10, "registry.clean"),
    "registry_storage": _every(20, "registry.storage"),
    "uploads": _every(5, "registry.uploads"),
    "imports": _every(5, "registry.imports"),
    "imports_deploy": _every(5, "deployments.deploy_imported"),
    "uploads_forget": _every(3600, "registry.uploads_forget"),
    # Once an hour is enough; a message that found no worker is not missed for long.
    "events": _every(300, "core.prune_events"),
}
