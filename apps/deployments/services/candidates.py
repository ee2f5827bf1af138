"""Which hosts could take an instance, decided by the database: never all hosts of a large cluster in Python.

The conditions are those of apps.deployments.scheduler.filters in SQL; a test holds the two against each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform
from django.db.models.lookups import Exact, In, IsNull

from apps.core import compiled
from apps.core.clock import now
from apps.deployments.models import Instance
from apps.deployments.scheduler.constraints import Constraint
from apps.deployments.scheduler.types import Candidate, Request, Rules
from apps.hosts.models import Host
from apps.hosts.samples import FRESH
from apps.hosts.selectors import hosts_of

COLUMNS = (
    "pk",
    "name",
    "generation",
    "status",
    "availability",
    "disk_pressure",
    "memory_mb_capacity",
    "cpu_millis_capacity",
    "memory_mb_claimed",
    "cpu_millis_claimed",
    "port_min",
    "port_max",
    "port_next",
    "ports_held",
    "labels",
    "zone",
    "engine_number",
    "dedicated_to_id",
    "cpu_millis",
    "cpu_millis_idle",
    "sampled_at",
    "os",
    "architecture",
)
#: Requests for these have statements that are kept (see apps.core.compiled): as many as can be told apart, and no more.
COMMON_PLATFORMS = frozenset({("linux", "amd64"), ("linux", "arm64"), ("linux", "arm"), ("linux", "386")})


Row = tuple[Any, ...]
Rows = QuerySet[Host, Row]


@dataclass(frozen=True, slots=True)
class Own:
    """What the app has already: instances per host, and those of the release in question."""

    on_host: Counter[int] = field(default_factory=Counter)
    of_release: Counter[int] = field(default_factory=Counter)


def own_of(app_id: int, replica_set_id: int | None) -> Own:
    own = Own()
    for host, of in compiled.select(_own, {"app_id": app_id}):
        own.on_host[host] += 1
        if of == replica_set_id:
            own.of_release[host] += 1
    return own


def _own(*, app_id: int) -> QuerySet[Instance, tuple[int, int]]:
    rows = Instance.objects.filter(app_id=app_id, released=False).order_by()
    return rows.values_list("host_id", "replica_set_id")


def in_zones(own: Own) -> Counter[str]:
    """How many instances the app has in each zone."""
    held: Counter[str] = Counter()
    for pk, zone in Host.objects.filter(pk__in=own.on_host).values_list("pk", "zone"):
        held[zone] += own.on_host[pk]
    return held


def matching(cluster_id: int, request: Request) -> QuerySet[Host]:
    """Hosts that are meant by the request and in service; whether they have room or not."""
    return meant(cluster_id, request).filter(
        status=Host.Status.READY, availability=Host.Availability.ACTIVE, disk_pressure=False
    )


def meant(cluster_id: int, request: Request) -> QuerySet[Host]:
    """Hosts that the request allows and describes, whatever their state."""
    rows = hosts_of(cluster_id).filter(Q(dedicated_to=None) | Q(dedicated_to=request.tenant_id))
    rules = request.rules
    for constraint in rules.constraints:
        rows = rows.filter(_labelled(constraint))
    if rules.min_engine:
        rows = rows.filter(engine_number__gte=rules.min_engine)
    if request.platforms:
        fits = Q(os="")
        for os, architecture in sorted(request.platforms):
            fits |= Q(os=os, architecture=architecture)
        rows = rows.filter(fits)
    for slug in rules.beside:
        rows = rows.filter(Exists(running(request.tenant_id, [slug]).filter(host=OuterRef("pk"))))
    return rows


def with_room(cluster_id: int, request: Request, replica_set_id: int | None) -> QuerySet[Host]:
    """Of those, the hosts on which one more instance fits."""
    rows = matching(cluster_id, request).filter(
        memory_mb_free__gte=request.memory_mb,
        cpu_millis_capacity__gte=F("cpu_millis_claimed") + request.cpu_millis,
        port_max__gte=F("port_min") + F("ports_held"),
    )
    if request.rules.one_per_host and replica_set_id is not None:
        ours = Instance.objects.filter(replica_set_id=replica_set_id, released=False, host=OuterRef("pk"))
        rows = rows.exclude(Exists(ours))
    return rows


#: The fullest first where they are wanted; else the emptiest.
ORDERS = {True: ("memory_mb_free", "-pk"), False: ("-memory_mb_free", "pk")}


def page(
    cluster_id: int, request: Request, replica_set_id: int, *, fullest: bool, start: int, stop: int, zone: str = ""
) -> list[Row]:
    """A page of the hosts with room, as rows of COLUMNS: those that the weights want most first."""

    def build(*, cluster_id: int, memory_mb: int, cpu_millis: int, tenant_id: int) -> Rows:
        needs = replace(request, memory_mb=memory_mb, cpu_millis=cpu_millis, tenant_id=tenant_id)
        rows = with_room(cluster_id, needs, replica_set_id)
        if zone:
            rows = rows.filter(zone=zone)
        return rows.order_by(*ORDERS[fullest]).values_list(*COLUMNS)[start:stop]

    values = {
        "cluster_id": cluster_id,
        "memory_mb": request.memory_mb,
        "cpu_millis": request.cpu_millis,
        "tenant_id": request.tenant_id,
    }
    if request.rules != Rules() or zone or start or not request.platforms <= COMMON_PLATFORMS:
        # As many shapes as tenants think of.
        return list(build(**values))
    return compiled.select(build, values, (fullest, stop, request.platforms))


def running(tenant_id: int, slugs: Collection[str]) -> QuerySet[Instance]:
    """Live instances of these apps of the tenant."""
    return Instance.objects.filter(
        app__tenant_id=tenant_id, app__slug__in=slugs, released=False, status__in=Instance.LIVE
    )


def zones_of(cluster_id: int) -> list[str]:
    """The zones in which hosts take instances, by steps through their index: a DISTINCT would read all hosts."""
    rows = Host.objects.filter(
        cluster_id=cluster_id,
        status=Host.Status.READY,
        availability=Host.Availability.ACTIVE,
        disk_pressure=False,
    ).exclude(zone="")
    step = rows.order_by("zone").values_list("zone", flat=True)
    found: list[str] = []
    last = step.first()
    while last is not None:
        found.append(last)
        last = step.filter(zone__gt=last).first()
    return found


def read(rows: Iterable[Row], own: Own, neighbours: dict[int, set[str]] | frozenset[str]) -> list[Candidate]:
    """Candidates of rows of COLUMNS. ``neighbours`` is by host, or what is known of all of them."""
    fresh = now() - FRESH
    return [_candidate(row, own, neighbours, fresh) for row in rows]


def _candidate(row: Row, own: Own, neighbours: Any, fresh: Any) -> Candidate:
    (pk, name, generation, status, availability, disk, memory, cpu, memory_claimed, cpu_claimed) = row[:10]
    (port_min, port_max, port_next, ports_held, labels, zone, engine, dedicated) = row[10:18]
    cpu_all, cpu_idle, sampled_at, os, architecture = row[18:]
    measured = cpu_idle is not None and sampled_at is not None and sampled_at >= fresh
    return Candidate(
        host_id=pk,
        name=name,
        generation=generation,
        status=status,
        availability=availability,
        disk_pressure=disk,
        memory_mb=memory,
        cpu_millis=cpu,
        memory_mb_claimed=memory_claimed,
        cpu_millis_claimed=cpu_claimed,
        ports_free=port_max - port_min + 1 - ports_held,
        ports=(port_min, port_max, port_next),
        labels=labels,
        zone=zone,
        engine=engine,
        platform=(os, architecture),
        dedicated_to=dedicated,
        cpu_idle=min(1.0, cpu_idle / cpu_all) if measured else None,
        own_instances=own.on_host[pk],
        own_of_release=own.of_release[pk],
        has_image=own.of_release[pk] > 0,
        neighbours=neighbours if isinstance(neighbours, frozenset) else frozenset(neighbours.get(pk, ())),
    )


def neighbours_of(request: Request) -> dict[int, set[str]]:
    """Host id -> those of the apps to be beside that run there."""
    found: dict[int, set[str]] = defaultdict(set)
    if request.rules.beside:
        rows = running(request.tenant_id, request.rules.beside).order_by()
        for host, slug in rows.values_list("host_id", "app__slug").distinct():
            found[host].add(slug)
    return found


def _labelled(constraint: Constraint) -> Q:
    value = KeyTextTransform(constraint.key, "labels")
    if constraint.op in ("exists", "not exists"):
        return Q(IsNull(value, constraint.op == "not exists"))
    if constraint.op in ("==", "!="):
        within = Q(Exact(value, constraint.values[0]))
    else:
        within = Q(In(value, list(constraint.values)))
    if constraint.op in ("==", "in"):
        return within
    return Q(IsNull(value, True)) | ~within
