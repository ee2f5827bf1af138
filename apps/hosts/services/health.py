"""What is seen of hosts, written down: whether their engines answer, and what they say of themselves."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Least

from apps.core import events
from apps.core.clock import now
from apps.hosts.engines_version import number_of
from apps.hosts.models import Cluster, Host
from apps.hosts.selectors import hosts_of


@transaction.atomic
def host_seen(
    *,
    host: Host,
    engine_version: str,
    platform: tuple[str, str] = ("", ""),
    at: datetime | None = None,
    clean: bool = True,
) -> None:
    """The engine answered, to what was asked ``at`` that time (else now). The host is ready, unless containers that
    were given up are still there (not ``clean``). ``platform``: os and architecture, as images name them.
    """
    Host.objects.filter(pk=host.pk).update(
        last_seen_at=at or now(),
        last_error="" if clean else "Containers that were given up are still there.",
        engine_version=engine_version[:60],
        engine_number=number_of(engine_version),
        os=platform[0],
        architecture=platform[1],
    )
    if not clean:
        return
    waiting = [Host.Status.JOINING, Host.Status.SUSPECT, Host.Status.DOWN]
    # Whoever looks at a host holds its lease, so what it was read as is what it is.
    if host.status in waiting and Host.objects.filter(pk=host.pk, status__in=waiting).update(status=Host.Status.READY):
        events.record("host.ready", f"Host {host.name} answers.", host_id=host.pk)


@transaction.atomic
def host_silent(*, host: Host, error: str) -> str:
    """The engine did not answer: after a while nothing more is placed there, and after another it counts as down.

    Returns the status that it has now. Its containers are left alone.
    """
    Host.objects.filter(pk=host.pk).update(last_error=error[:500])
    since = host.last_seen_at or host.created_at
    for old, new, limit in (
        (Host.Status.JOINING, Host.Status.DOWN, settings.HOST_JOIN_DEADLINE_S),
        (Host.Status.READY, Host.Status.SUSPECT, settings.HOST_SUSPECT_AFTER_S),
        (Host.Status.SUSPECT, Host.Status.DOWN, settings.HOST_DOWN_AFTER_S),
    ):
        if since is not None and now() - since < timedelta(seconds=limit):
            continue
        if Host.objects.filter(pk=host.pk, status=old).update(status=new):
            events.record(
                f"host.{new}",
                f"Host {host.name} does not answer: {error[:300]}",
                level="warning" if new == Host.Status.SUSPECT else "error",
                host_id=host.pk,
            )
            return new
    return Host.objects.values_list("status", flat=True).get(pk=host.pk)


def hosts_unwatched(*, gap: timedelta) -> None:
    """Nobody looked at any host for so long: that is no silence of theirs."""
    Host.objects.filter(last_seen_at__isnull=False).update(last_seen_at=Least(F("last_seen_at") + gap, now()))


def host_drained(*, host: Host) -> None:
    """Nothing is left on a host that was to be drained: it stays out of service, cordoned."""
    rows = Host.objects.filter(pk=host.pk, availability=Host.Availability.DRAINING)
    if rows.update(availability=Host.Availability.CORDONED):
        events.record("host.drained", f"Host {host.name} is empty. It stays cordoned.", host_id=host.pk)


@transaction.atomic
def evictions_allowed(*, cluster_id: int, holding: set[int]) -> bool:
    """Whether hosts that are down may be given up. ``holding`` are the silent hosts that hold instances.

    When more than half of a cluster's hosts fall silent it looks like our own network, and whoever acts on that takes
    down what runs well. Kubernetes stops in the same way (``--unhealthy-zone-threshold``, 0.55). Dead hosts that hold
    nothing count on neither side: they were given up before.
    """
    silent = len(holding)
    answering = hosts_of(cluster_id).filter(status=Host.Status.READY).count()
    allowed = silent <= answering
    clusters = Cluster.objects.filter(pk=cluster_id)
    if not allowed and clusters.filter(evictions_stopped_at=None).update(evictions_stopped_at=now()):
        events.record(
            "cluster.evictions_stopped",
            f"{silent} of {silent + answering} hosts do not answer. That looks like the platform's own network, so "
            "nothing is moved away from them. Mend the network, or remove the hosts that are gone for good.",
            level="error",
            cluster_id=cluster_id,
            silent=silent,
            answering=answering,
        )
    if allowed and clusters.exclude(evictions_stopped_at=None).update(evictions_stopped_at=None):
        events.record("cluster.evictions_resumed", "Enough hosts answer again.", cluster_id=cluster_id)
    return allowed
