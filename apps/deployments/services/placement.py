"""Placement: one transaction claims quota, memory, CPU and ports, and creates the instances.

In three steps. **Search**: candidates are read without a lock and the pipeline decides. **Confirm**: the tenant's
quota is taken, and ports are guessed; after a lost race, and where instances must not share a host, the chosen hosts
are locked in the order of their ids, and those whose generation moved since are put through the filters again.
**Write**: instances and allocations are inserted; then the hosts' counters are moved, on the condition that they are
in service and have that much left, and the ports inserted: hosts last, since everybody wants the same few, and whoever
holds one keeps the others waiting until the commit. Whoever loses a host or a port rolls back and searches anew.

The order in which rows are locked is everybody's: app, cluster (who queues), quota, hosts by id, their ports.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import uuid4
from zlib import crc32

from django.conf import settings
from django.db import transaction

from apps.core import compiled, jobs
from apps.core.clock import after
from apps.core.errors import Conflict
from apps.deployments.models import App, Instance, Release, ReplicaSet
from apps.deployments.scheduler.filters import refusal
from apps.deployments.scheduler.pipeline import place
from apps.deployments.scheduler.ports import next_ports
from apps.deployments.scheduler.types import Candidate, Decision, Placed, Request
from apps.deployments.scheduler.weighers import ZONE, chosen
from apps.deployments.selectors import TOGETHER, batched
from apps.deployments.services import candidates
from apps.deployments.services.images import platforms_of
from apps.deployments.services.rules import rules_of
from apps.hosts.selectors import hosts_of, ports_taken
from apps.hosts.services.claims import Claim, Contended, claim, cluster_queue, hosts_locked
from apps.tenants.services.tenants import quota_claim, quota_fitting

ATTEMPTS = 8
#: From this attempt on the losers of a cluster queue, so that each has only newcomers to lose against.
QUEUED_FROM = 3
#: How many hosts with room one placement looks at, at first. It goes on to the others while it has not enough.
WINDOW = 32


Ports = dict[int, list[int]]


#: What deploys by itself is tried again for so long where others placed at the same time. Seconds.
CONTENDED_S = 300


class NoHost(Conflict):
    code = "placement.no_host"


class PlacementContended(Conflict):
    """Others placed at the same time, again and again. Asking again is right."""

    code = "placement.contended"


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be placed for one replica set, and how.

    ``partial``: as many as fit, at least one, instead of all or none. ``replaces``: the platform itself moves this
    instance, so for a moment there are two of it; that is beyond the tenant's quota, and not the tenant's to pay for.
    """

    replica_set: ReplicaSet
    count: int
    request: Request
    weights: Mapping[str, float]
    partial: bool = False
    replaces: Instance | None = None

    @property
    def beyond_quota(self) -> bool:
        return self.replaces is not None

    @property
    def app(self) -> App:
        return self.replica_set.app


def request_of(release: Release, *, tenant_id: int, avoid: frozenset[int] = frozenset(), seed: str = "") -> Request:
    return Request(
        memory_mb=release.memory_mb,
        cpu_millis=release.cpu_millis,
        tenant_id=tenant_id,
        rules=rules_of(release.placement),
        avoid=avoid,
        seed=seed,
        platforms=platforms_of(release.version_id),
    )


def instances_place(
    *,
    replica_set: ReplicaSet,
    count: int,
    avoid: frozenset[int] = frozenset(),
    partial: bool = False,
    replaces: Instance | None = None,
) -> list[Instance]:
    """Place ``count`` more instances of a replica set, all or none; with ``partial`` as many as fit, at least one.

    Raises QuotaExceeded, NoHost (with each reason and how many hosts it refused), PlacementContended.
    """
    app = replica_set.app
    request = request_of(replica_set.release, tenant_id=app.tenant_id, avoid=avoid, seed=str(replica_set.pk))
    ask = Ask(replica_set, count, request, app.cluster.weights, partial, replaces)
    for number in range(ATTEMPTS):
        try:
            with transaction.atomic():
                if number >= QUEUED_FROM:
                    cluster_queue(cluster_id=app.cluster_id)
                return _attempt(ask, optimistic=number == 0)
        except Contended:
            continue
    raise PlacementContended(f"The cluster was too busy to place this in {ATTEMPTS} attempts. Try again.")


def placed_announce(placed: Iterable[Instance]) -> None:
    """Have them started: part of the transaction that placed them. A host that hangs keeps only its own waiting."""
    by_host: dict[int, list[int]] = defaultdict(list)
    for one in placed:
        by_host[one.host_id].append(one.pk)
    for pks in by_host.values():
        for some in batched(pks, TOGETHER):
            jobs.enqueue(jobs.START_INSTANCES, *some)


def _attempt(ask: Ask, *, optimistic: bool) -> list[Instance]:
    count = quota_fitting(**_need(ask, ask.count)) if ask.partial and not ask.beyond_quota else ask.count
    decision, hosts = search(ask, count)
    if len(decision.placed) < (1 if ask.partial else count):
        # Of two reasons the quota's is told, which the tenant can mend.
        quota_claim(**_need(ask, count), beyond=ask.beyond_quota)
        raise _no_host(ask, count, decision, hosts)
    wanted = decision.placed
    quota_claim(**_need(ask, len(wanted)), beyond=ask.beyond_quota)
    ports = _ports_guessed(ask, wanted, hosts) if optimistic else None
    return _write(ask, wanted, ports or _ports_confirmed(ask, wanted, hosts))


def _need(ask: Ask, count: int) -> dict[str, int]:
    return {
        "tenant_id": ask.app.tenant_id,
        "memory_mb": ask.request.memory_mb * count,
        "cpu_millis": ask.request.cpu_millis * count,
        "instances": count,
    }


def search(ask: Ask, count: int) -> tuple[Decision, dict[int, Candidate]]:
    """Decide on hosts that the database says have room; look at more of them while these are not enough."""
    app, request = ask.app, ask.request
    own = candidates.own_of(app.pk, ask.replica_set.pk)
    weights = chosen(ask.weights)
    of = partial(
        candidates.page,
        app.cluster_id,
        request,
        ask.replica_set.pk,
        fullest=weights["binpack"] > weights["free_memory"],
    )
    # The database has seen to it that what the request wants to be beside runs on all of these.
    read = partial(candidates.read, own=own, neighbours=frozenset(request.rules.beside))
    hosts: dict[int, Candidate] = {}
    held: Mapping[str, int] = {}
    start, size = 0, max(WINDOW, 2 * count)
    while True:
        found = read(of(start=start, stop=start + size))
        hosts.update((one.host_id, one) for one in found)
        if not start and weights[ZONE] and any(one.zone for one in found):
            # Each zone's best: among the best of all there may be none of the zone that needs one.
            zones = candidates.zones_of(app.cluster_id)
            for zone in zones:
                best = read(of(start=0, stop=max(4, size // len(zones)), zone=zone))
                hosts.update((one.host_id, one) for one in best)
            held = candidates.in_zones(own)
        decision = place(request, count, list(hosts.values()), weights=ask.weights, zones=held)
        if len(decision.placed) >= count or len(found) < size:
            return decision, hosts
        start, size = start + size, size * 4


def _ports_guessed(ask: Ask, wanted: tuple[Placed, ...], seen: Mapping[int, Candidate]) -> Ports | None:
    """Ports chosen without a lock; None where that may well go wrong.

    That they are free, their constraint says; that the hosts have room, the swap's conditions say. Placers at the same
    time guess differently, so that those who chose the same host only follow each other.
    """
    if ask.request.rules.one_per_host:
        return None
    if len(wanted) == 1:
        low, high, _ = seen[wanted[0].host_id].ports
        size = high - low + 1
        if seen[wanted[0].host_id].ports_free * 2 < size:
            return None
        return {wanted[0].host_id: [low + crc32(uuid4().bytes) % size]}
    counts = Counter(one.host_id for one in wanted)
    taken = ports_taken(counts)
    ports = {}
    for pk, number in counts.items():
        low, high, _ = seen[pk].ports
        ports[pk] = next_ports(low, high, low + crc32(uuid4().bytes) % (high - low + 1), taken[pk], number)
        if len(ports[pk]) < number:
            return None
    return ports


def _ports_confirmed(ask: Ask, wanted: tuple[Placed, ...], seen: Mapping[int, Candidate]) -> Ports:
    """Lock the hosts, look again at those that changed, and choose ports. Raises Contended."""
    counts = Counter(one.host_id for one in wanted)
    rows = {row[0]: row[1:] for row in hosts_locked(counts, ("pk", "generation", "port_min", "port_max", "port_next"))}
    if changed := [pk for pk in counts if pk not in rows or rows[pk][0] != seen[pk].generation]:
        _look_again(ask, {pk: counts[pk] for pk in changed})
    taken = ports_taken(counts)
    ports = {}
    for pk, number in counts.items():
        _, low, high, start = rows[pk]
        ports[pk] = next_ports(low, high, start, taken[pk], number)
        if len(ports[pk]) < number:
            raise Contended
    return ports


def _look_again(ask: Ask, counts: Mapping[int, int]) -> None:
    """Whether hosts that changed since the search still take as many. Raises Contended."""
    own = candidates.own_of(ask.app.pk, ask.replica_set.pk)
    neighbours = frozenset(ask.request.rules.beside)
    rows = hosts_of(ask.app.cluster_id).filter(pk__in=counts).values_list(*candidates.COLUMNS)
    hosts = {host.host_id: host for host in candidates.read(rows, own, neighbours)}
    for pk, number in counts.items():
        for _ in range(number):
            if pk not in hosts or refusal(hosts[pk], ask.request):
                raise Contended
            hosts[pk] = hosts[pk].after(ask.request)


def _write(ask: Ask, wanted: tuple[Placed, ...], ports: Ports) -> list[Instance]:
    instances = [
        Instance(
            uid=uuid4(),
            app=ask.app,
            replica_set=ask.replica_set,
            host_id=one.host_id,
            port=ports[one.host_id].pop(0),
            deadline_at=after(settings.START_DEADLINE_S),
            replaces=ask.replaces,
            why={name: round(score, 3) for name, score in one.scores.items()},
        )
        for one in wanted
    ]
    request = ask.request
    compiled.insert(instances)
    claim(
        claims=[
            Claim(one.uid, ask.app.tenant_id, one.host_id, request.memory_mb, request.cpu_millis, one.port)
            for one in instances
        ]
    )
    return instances


def _no_host(ask: Ask, count: int, decision: Decision, seen: Mapping[int, Candidate]) -> NoHost:
    """Why not: every host of the cluster goes through the filters once. Only a refusal has to pay for that."""
    request = ask.request
    own = candidates.own_of(ask.app.pk, ask.replica_set.pk)
    rows = hosts_of(ask.app.cluster_id).values_list(*candidates.COLUMNS)
    reasons: Counter[str] = Counter()
    total = 0
    given = Counter(one.host_id for one in decision.placed)
    for host in candidates.read(rows.iterator(2000), own, candidates.neighbours_of(request)):
        total += 1
        # As it would be with those that do fit: why it takes no further one.
        for _ in range(given[host.host_id]):
            host = host.after(request)
        if reason := refusal(host, request):
            reasons[reason] += 1
    told = dict(sorted(reasons.items()))
    listed = ", ".join(f"{reason}: {number}" for reason, number in told.items()) or "the cluster has none"
    return NoHost(
        f"No host has room for {count} x {request.memory_mb} MiB and {request.cpu_millis / 1000:g} CPU "
        f"({len(decision.placed)} of {count} would fit). Of {total} hosts — {listed}.",
        refused=told,
        hosts=total,
        fitting=len(decision.placed),
    )
