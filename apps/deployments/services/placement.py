"""Placement: one transaction claims quota, memory, CPU and ports, and creates the instances."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Count, F, Q

from apps.core.clock import after
from apps.core.errors import Conflict
from apps.deployments.models import Instance, ReplicaSet
from apps.deployments.scheduler.pipeline import place
from apps.deployments.scheduler.types import Candidate, Decision, Request
from apps.hosts.models import Host
from apps.hosts.selectors import hosts_of, hosts_with_room, ports_taken
from apps.hosts.services.claims import Claim, Contended, claim
from apps.tenants.services.tenants import quota_claim

ATTEMPTS = 8
#: How many of the emptiest hosts with room one placement looks at.
CANDIDATES = 64


class NoHost(Conflict):
    code = "placement.no_host"


class PlacementContended(Conflict):
    """Others placed at the same time, again and again. Asking again is right."""

    code = "placement.contended"


def instances_place(*, replica_set: ReplicaSet, count: int, avoid: frozenset[int] = frozenset()) -> list[Instance]:
    """Place ``count`` more instances of a replica set, all or none.

    Raises QuotaExceeded, NoHost (with each reason and how many hosts it refused), PlacementContended.
    """
    release = replica_set.release
    request = Request(memory_mb=release.memory_mb, cpu_millis=release.cpu_millis, avoid=avoid)
    for _ in range(ATTEMPTS):
        try:
            with transaction.atomic():
                return _attempt(replica_set, request, count)
        except Contended:
            continue
    raise PlacementContended(f"The cluster was too busy to place this in {ATTEMPTS} attempts. Try again.")


def _attempt(replica_set: ReplicaSet, request: Request, count: int) -> list[Instance]:
    app = replica_set.app
    quota_claim(
        tenant_id=app.tenant_id,
        memory_mb=request.memory_mb * count,
        cpu_millis=request.cpu_millis * count,
        instances=count,
    )
    candidates = _candidates(app.pk, app.cluster_id, request, count)
    decision = place(request, count, candidates)
    if len(decision.placed) < count:
        raise _no_host(app.cluster_id, request, count, decision, len(candidates))
    instances = [
        Instance(
            uid=uuid4(),
            app=app,
            replica_set=replica_set,
            host_id=chosen.host_id,
            port=chosen.port,
            deadline_at=after(settings.START_DEADLINE_S),
        )
        for chosen in decision.placed
    ]
    Instance.objects.bulk_create(instances)
    # In the order of the hosts' ids, so that two placements can't wait for each other's rows in a ring.
    generations = {host.host_id: host.generation for host in candidates}
    for host_id in sorted({chosen.host_id for chosen in decision.placed}):
        claims = [
            Claim(one.uid, app.tenant_id, request.memory_mb, request.cpu_millis, one.port)
            for one in instances
            if one.host_id == host_id
        ]
        claim(host_id=host_id, generation=generations[host_id], claims=claims)
    return instances


def _candidates(app_id: int, cluster_id: int, request: Request, count: int) -> list[Candidate]:
    rows = hosts_with_room(cluster_id, memory_mb=request.memory_mb, cpu_millis=request.cpu_millis)
    hosts = list(rows[: max(CANDIDATES, count)])
    taken = ports_taken(host.pk for host in hosts)
    own = Counter(
        Instance.objects.filter(app_id=app_id, released=False, host__in=hosts).values_list("host_id", flat=True)
    )
    return [
        Candidate(
            host_id=host.pk,
            name=host.name,
            generation=host.generation,
            ready=host.status == Host.Status.READY,
            memory_mb=host.memory_mb,
            cpu_millis=host.cpu_millis,
            memory_mb_claimed=host.memory_mb_claimed,
            cpu_millis_claimed=host.cpu_millis_claimed,
            port_min=host.port_min,
            port_max=host.port_max,
            port_next=host.port_next,
            ports_taken=frozenset(taken[host.pk]),
            labels=host.labels,
            own_instances=own[host.pk],
        )
        for host in hosts
    ]


def _no_host(cluster_id: int, request: Request, count: int, decision: Decision, looked_at: int) -> NoHost:
    """Why not: what the database refused before the pipeline saw it, counted in one query, and the rest."""
    ready = Q(status=Host.Status.READY)
    short_memory = Q(memory_mb__lt=F("memory_mb_claimed") + request.memory_mb)
    short_cpu = Q(cpu_millis__lt=F("cpu_millis_claimed") + request.cpu_millis)
    counts = hosts_of(cluster_id).aggregate(
        total=Count("pk"),
        not_ready=Count("pk", filter=~ready),
        memory=Count("pk", filter=ready & short_memory),
        cpu=Count("pk", filter=ready & ~short_memory & short_cpu),
    )
    reasons = Counter(
        {
            "not ready": counts["not_ready"],
            "not enough memory": counts["memory"],
            "not enough CPU": counts["cpu"],
        }
    )
    reasons.update(decision.refused)
    told = {reason: number for reason, number in reasons.items() if number}
    listed = ", ".join(f"{reason}: {number}" for reason, number in sorted(told.items())) or "the cluster has none"
    return NoHost(
        f"No host has room for {count} x {request.memory_mb} MiB and {request.cpu_millis / 1000:g} CPU "
        f"({len(decision.placed)} of {count} would fit). Of {counts['total']} hosts — {listed}.",
        refused=told,
        hosts=counts["total"],
        fitting=len(decision.placed),
    )
