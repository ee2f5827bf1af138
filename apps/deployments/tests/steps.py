"""What several tests of the loop do or look for."""

from __future__ import annotations

from datetime import timedelta

from apps.core.clock import now
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.services.strategies import Options
from apps.hosts.models import Allocation, Host, PortAllocation


def deploy(app, world, instances=2, version="1.0", options=None, **values):
    return rollout_start(
        app=app,
        version=version,
        by=world.alice,
        instances=instances,
        settings_=ReleaseSettings(**values),
        # Nobody asks in these tests: there is nothing to compare, and nothing to wait for.
        options=options or Options(judge_s=0),
    )


def nothing_held(app):
    quota = app.tenant.quota
    quota.refresh_from_db()
    assert (quota.memory_mb_used, quota.cpu_millis_used, quota.instances_used) == (0, 0, 0)
    assert not Allocation.objects.exists()
    assert not PortAllocation.objects.filter(status=PortAllocation.Status.CLAIMED).exists()
    assert not Host.objects.exclude(memory_mb_claimed=0, cpu_millis_claimed=0).exists()


def rest():
    PortAllocation.objects.update(freed_at=now() - timedelta(minutes=1))
