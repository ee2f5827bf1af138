"""As many instances as the replica sets want, where they may be: growing, shrinking, moving, following hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from django.db.models import Q

from apps.core import events
from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.failpoints import reached
from apps.deployments.backoff import IMMEDIATE_RESTARTS, delay_s
from apps.deployments.models import App, Instance, ReplicaSet
from apps.deployments.selectors import live_of, recent_failures, standing_of
from apps.deployments.services.instances import instance_drain
from apps.deployments.services.placement import instances_place, placed_announce
from apps.deployments.services.spread import followed, wanted_set
from apps.hosts.models import Host

FAILURES_KEPT_S = 1800
#: A host on which an instance of the set has just failed is the last choice for this long. Seconds.
AVOID_S = 120
#: What found no room is tried again after so long. Seconds.
RETRY_S = 5


def counts(app: App) -> None:
    standing = standing_of(app.pk)
    # An app has as many sets as it ever had releases: of those that run nothing, and shall not, not even rows are read.
    sets = app.replica_sets.filter(Q(wanted__gt=0) | Q(pk__in=list(standing)))
    for replica_set in sets.select_related("release__version", "app__cluster"):
        as_wanted = standing.get(replica_set.pk, (0, 0)) == (replica_set.wanted, 0)
        if as_wanted and not (replica_set.release.is_global and replica_set.wanted):
            # No instance need be read of what stands as it should.
            continue
        live = live_of(replica_set.pk)
        if replica_set.release.is_global and replica_set.wanted:
            _follow(app, replica_set, live)
            continue
        moving = [one for one in live if one.host.availability == Host.Availability.DRAINING]
        leaving = {one.pk for one in moving}
        # While one moves there are two of it, which are one towards what is wanted.
        doubles = [one for one in live if one.replaces_id in leaving]
        # Some take over the places of others once those are gone.
        coming = Instance.objects.filter(app=app, rebuild_as=replica_set, released=False).count()
        missing = replica_set.wanted - (len(live) - len(doubles)) - coming
        if missing > 0:
            _grow(app, replica_set, missing)
        elif missing < 0:
            _shrink(live, -missing)
        elif moving:
            _move(app, replica_set, moving, doubles)


def _grow(
    app: App,
    replica_set: ReplicaSet,
    missing: int,
    *,
    replaces: Instance | None = None,
    hosts: Collection[int] | None = None,
) -> None:
    """Place what is missing, as many as fit. ``replaces``: the platform moves this one, beyond the tenant's quota.

    ``hosts``: those that are meant, where failures on others don't count.
    """
    at = now()
    if replica_set.retry_at is not None and at < replica_set.retry_at:
        return
    failures = list(recent_failures(replica_set.pk, at - timedelta(seconds=FAILURES_KEPT_S)))
    counted = [one for one in failures if hosts is None or one.host_id in hosts]
    ready_at = _next_try(counted, replica_set.wanted if hosts is None else len(hosts))
    if ready_at is not None and at < ready_at:
        ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=ready_at)
        return
    avoid = frozenset(one.host_id for one in failures if one.status_since >= at - timedelta(seconds=AVOID_S))
    try:
        placed = instances_place(
            replica_set=replica_set, count=missing, avoid=avoid, partial=replaces is None, replaces=replaces
        )
    except BerthError as error:
        _waiting(app, replica_set, missing, error)
        return
    reached("instances.placed", app.slug)
    # What did not fit is asked for again by the next pass, which then says why there is no room.
    ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=None)
    placed_announce(placed)


def _waiting(app: App, replica_set: ReplicaSet, missing: int, error: BerthError) -> None:
    if replica_set.retry_at is None:
        events.record(
            "placement.waiting",
            f"{missing} instances can't be placed: {error.detail}",
            level="warning",
            tenant_id=app.tenant_id,
            app_id=app.pk,
            cause=error.code,
        )
    ReplicaSet.objects.filter(pk=replica_set.pk).update(retry_at=now() + timedelta(seconds=RETRY_S))


def _next_try(failures: list[Instance], wanted: int) -> datetime | None:
    """When the next replacement may start, by how often and when the last ones failed (the latest first).

    As many failures as instances are wanted count as one round: ten that crash together crashed once.
    """
    restarts = len(failures) // max(1, wanted) - 1
    delay = delay_s(restarts)
    if not delay:
        return None
    return failures[0].status_since + timedelta(seconds=delay)


def _shrink(live: Sequence[Instance], surplus: int) -> None:
    """Those on draining hosts go first, then the least ready, then the newest."""
    order = {status: rank for rank, status in enumerate(Instance.LIVE)}

    def last_wanted(row: Instance) -> tuple[bool, int, int]:
        stays = row.host.availability != Host.Availability.DRAINING
        return stays, order[Instance.Status(row.status)], -row.pk

    for instance in sorted(live, key=last_wanted)[:surplus]:
        instance_drain(instance=instance)
        reached("instances.drained", instance.app.slug)


def _move(app: App, replica_set: ReplicaSet, moving: Sequence[Instance], doubles: Sequence[Instance]) -> None:
    """Away from hosts that are being drained, one after the other: a new one is ready before an old one stops."""
    ready = {one.replaces_id for one in doubles if one.status == Instance.Status.HEALTHY}
    begun = {one.replaces_id for one in doubles}
    for one in moving:
        # One that serves nobody yet need not be waited for: what is missing then is placed elsewhere.
        if one.pk in ready or one.status != Instance.Status.HEALTHY:
            instance_drain(instance=one)
    waiting = [one for one in moving if one.pk not in begun and one.status == Instance.Status.HEALTHY]
    if waiting and begun <= ready:
        _grow(app, replica_set, 1, replaces=waiting[0])


def _follow(app: App, replica_set: ReplicaSet, live: Sequence[Instance]) -> None:
    """One on every host that is meant. Hosts that are only silent keep theirs: what can't be seen is not acted on."""
    meant, open_now = followed(replica_set)
    here = {one.host_id for one in live}
    # One host on which it can't run must neither be tried without end nor hold the others up.
    at = now()
    failed: dict[int, list[datetime]] = defaultdict(list)
    for one in recent_failures(replica_set.pk, at - timedelta(seconds=FAILURES_KEPT_S)):
        failed[one.host_id].append(one.status_since)
    rested = at - timedelta(seconds=AVOID_S)
    resting = {host for host, times in failed.items() if len(times) > IMMEDIATE_RESTARTS and max(times) > rested}
    for one in live:
        if one.host_id not in meant:
            instance_drain(instance=one)
    missing = open_now - here - resting
    wanted_set(replica_set=replica_set, wanted=max(1, len((here & meant) | open_now)))
    if missing:
        _grow(app, replica_set, len(missing), hosts=missing)
