"""What hosts say of themselves, as long as it is fresh: an old measurement counts as none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from apps.core.clock import now
from apps.hosts.models import Host

#: A joined host reports every 10 s; one that was not heard of for so long is not known to be idle.
FRESH = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured, not reserved. Memory and disk are MiB, CPU is thousandths of a core."""

    at: datetime
    cpu_millis_idle: int | None
    memory_mb_idle: int | None
    disk_mb: int | None
    disk_mb_idle: int | None


def fresh_samples(host: Host, at: datetime | None = None) -> Samples | None:
    """The host's last samples, or None if there are none or they are older than FRESH."""
    if host.sampled_at is None or host.sampled_at < (at or now()) - FRESH:
        return None
    return Samples(host.sampled_at, host.cpu_millis_idle, host.memory_mb_idle, host.disk_mb, host.disk_mb_idle)


def sampled_lately(at: datetime | None = None) -> Q:
    """Hosts whose samples count, for the database to decide: the same rule as fresh_samples."""
    return Q(sampled_at__gte=(at or now()) - FRESH)
