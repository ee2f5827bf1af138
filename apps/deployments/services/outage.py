"""Making up for a time in which the platform was away: nobody could keep a deadline, so none counts for it."""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.db.models import F
from django.db.models.functions import Least

from apps.core.clock import now
from apps.deployments.models import Gateway, Instance, ReplicaSet, Rollout
from apps.hosts.services.health import hosts_unwatched

log = structlog.get_logger(__name__)


def deadlines_extended(gap: timedelta) -> None:
    """Move what runs out by itself on by ``gap``: part of the transaction that notes that the platform is back.

    Gateways and hosts count as heard of as recently as when it went: that nobody listened says nothing about them, and
    a gateway that is left out here would be one that no removal of a container waits for.
    """
    rollouts = Rollout.objects.filter(status__in=Rollout.OPEN).update(deadline_at=F("deadline_at") + gap)
    waiting = Instance.objects.filter(released=False, deadline_at__isnull=False)
    instances = waiting.update(deadline_at=F("deadline_at") + gap)
    ReplicaSet.objects.filter(retiring_until__isnull=False).update(retiring_until=F("retiring_until") + gap)
    Gateway.objects.update(last_seen_at=Least(F("last_seen_at") + gap, now()))
    hosts_unwatched(gap=gap)
    log.warning("platform_was_away", seconds=gap.total_seconds(), rollouts=rollouts, instances=instances)
