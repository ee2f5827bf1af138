"""What the loop reads: for the platform itself, of all tenants."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from apps.core import compiled
from apps.core.clock import now
from apps.core.leases import free
from apps.deployments.models import App, Gateway, Instance, Release, ReplicaSet, Rollout
from apps.deployments.selectors.certificates import challenges_of
from apps.deployments.selectors.domains import leads_to
from apps.deployments.selectors.policies import policy_of, ports_of, tested_of
from apps.hosts.models import Host
from apps.tenants.models import Tenant
from gateway.contract import Policy

#: An instance that lived this long has settled: its end starts no back-off. Seconds.
SETTLED_S = 300


@dataclass(frozen=True, slots=True)
class Published:
    """One healthy instance as it should stand in ZooKeeper."""

    version: str
    container_id: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Publication:
    """What should be routed for one app, as of ``wanted`` (App.route_wanted).

    ``groups``: a share (0 to 100) and the container ids that get it together; where there are any, gateways go by them
    instead of ``weights``. The rest: see gateway.contract.Route.
    """

    app: str
    wanted: int
    domains: tuple[str, ...]
    weights: dict[str, int]
    instances: tuple[Published, ...]
    groups: tuple[tuple[int, tuple[str, ...]], ...] = ()
    policy: Policy = field(default_factory=Policy)
    places: tuple[tuple[str, str], ...] = ()
    protocol: str = "http"
    ports: tuple[int, ...] = ()
    passthrough: tuple[str, ...] = ()
    challenges: dict[str, str] = field(default_factory=dict)


def publication_of(app_id: int) -> Publication | None:
    """None for an app that has no route: it is gone, or being deleted and nothing of it runs any more.

    ``wanted`` is read first: what changes later asks for another publication.
    """
    app = App.objects.filter(pk=app_id).only("slug", "route_wanted", "deleting_at", "protocol").first()
    if app is None or (app.deleting_at is not None and not app.instances.filter(released=False).exists()):
        return None
    wanted = app.route_wanted
    rows = (
        Instance.objects.filter(app_id=app_id, status=Instance.Status.HEALTHY, released=False)
        .order_by("pk")
        .values_list(
            "replica_set__release__version__tag",
            "container_id",
            "host__address",
            "port",
            "replica_set_id",
            "replica_set__weight",
        )
    )
    found = list(rows)
    leads = leads_to(app_id)
    tcp = app.protocol == App.Protocol.TCP
    policy = policy_of(app_id, tcp=tcp)
    testers = tested_of(app_id) if policy.canary_for_testers else None
    return Publication(
        app=app.slug,
        wanted=wanted,
        # What speaks TCP is found by a port, or by the name that a client asks for when it begins TLS.
        domains=() if tcp else leads.whole,
        places=() if tcp else leads.places,
        passthrough=leads.whole if tcp else (),
        ports=ports_of(app_id) if tcp else (),
        protocol=app.protocol,
        challenges=challenges_of(app_id),
        policy=replace(
            policy.asked,
            asleep=not found and _asleep(app_id),
            testers=tuple(sorted(one[1] for one in found if one[4] == testers)),
        ),
        **_shares(found, testers),
    )


def _shares(rows: list[tuple[str, str, str, int, int, int]], testers: int | None) -> dict[str, Any]:
    """Which instances are published, and what part of the traffic each version gets; each release, where several
    releases of one version have a part.

    One that has no share stays out beside others of its version that have: it would get of theirs; but those of the
    replica set ``testers`` are published, for whoever asks for them, with no share. Where none that has one is ready,
    those that are ready share alike: better the other version's answer than none.
    """
    alike = not any(weight for *_, weight in rows)
    counts = Counter(of for *_, of, _ in rows)
    shared: dict[str, dict[int, int]] = defaultdict(dict)
    for tag, _, _, _, of, weight in rows:
        shared[tag][of] = min(100, counts[of]) if alike else weight
    published, groups, apart = [], defaultdict(list), False
    for tag, container_id, address, port, of, _ in rows:
        beside = shared[tag][of] == 0 < max(shared[tag].values())
        if beside and of != testers:
            continue
        apart = apart or beside
        published.append(Published(tag, container_id, address, port))
        groups[of].append(container_id)
    mixed = apart or any(sum(weight > 0 for weight in sets.values()) > 1 for sets in shared.values())
    share_of = {pk: weight for sets in shared.values() for pk, weight in sets.items()}
    return {
        "weights": {tag: min(100, sum(sets.values())) for tag, sets in shared.items()},
        "instances": tuple(published),
        "groups": tuple((share_of[pk], tuple(sorted(ids))) for pk, ids in sorted(groups.items())) if mixed else (),
    }


def _asleep(app_id: int) -> bool:
    """Scaled to none on purpose: a release that would serve, of which nothing is wanted."""
    return ReplicaSet.objects.filter(app_id=app_id, weight__gt=0, wanted=0).exists()


def routed(slugs: Iterable[str]) -> set[str]:
    """Those of them that have a route; see publication_of."""
    held = Instance.objects.filter(app_id=OuterRef("pk"), released=False)
    rows = App.objects.filter(Q(deleting_at=None) | Exists(held), slug__in=list(slugs))
    return set(rows.values_list("slug", flat=True))


def hosts_away_of(app: App) -> QuerySet[Host]:
    """Hosts that are away with containers of the app: its rows say what is to be removed there when they are back."""
    lost = Instance.objects.filter(app=app, status=Instance.Status.LOST, released=True)
    away = Host.objects.filter(status__in=(Host.Status.SUSPECT, Host.Status.DOWN))
    return away.filter(pk__in=lost.values("host_id"))


def unfinished_tenants(limit: int) -> list[int]:
    """Tenants that are being deleted."""
    rows = Tenant.objects.filter(deleting_at__isnull=False)
    return list(rows.order_by("?").values_list("pk", flat=True)[:limit])


def standing_of(app_id: int) -> dict[int, tuple[int, int]]:
    """Replica set -> how many live instances it has, and how many of its instances, or of those that make room for one
    of it, are on the move: one on a host that is being drained, one that replaces another, one to be rebuilt.
    """
    here = Instance.objects.filter(app_id=app_id, released=False).order_by()
    moving = Q(replaces__isnull=False) | Q(host__availability=Host.Availability.DRAINING)
    live = here.filter(status__in=Instance.LIVE).values_list("replica_set_id")
    found = {pk: (count, off) for pk, count, off in live.annotate(count=Count("pk"), off=Count("pk", filter=moving))}
    for pk in here.filter(rebuild_as__isnull=False).values_list("rebuild_as_id", flat=True):
        count, off = found.get(pk, (0, 0))
        found[pk] = count, off + 1
    return found


def live_of(replica_set_id: int) -> list[Instance]:
    """The instances that count towards what the replica set wants, with their hosts, the oldest first."""
    rows = Instance.objects.filter(replica_set_id=replica_set_id, released=False, status__in=Instance.LIVE)
    return list(rows.select_related("app", "host").defer("host__tls_key").order_by("pk"))


def unfinished_apps(limit: int) -> list[int]:
    """Apps whose wanted and observed differ and that nobody works on."""
    live = Count("instances", filter=Q(instances__released=False, instances__status__in=Instance.LIVE))
    at = now()
    may_try = Q(retry_at=None) | Q(retry_at__lte=at)
    off = ReplicaSet.objects.filter(may_try).annotate(live=live).exclude(live=F("wanted")).values("app_id")
    everywhere = ReplicaSet.objects.filter(may_try, wanted__gt=0, release__is_global=True).values("app_id")
    retiring = ReplicaSet.objects.filter(retiring_until__isnull=False).values("app_id")
    moving = Instance.objects.filter(
        released=False, status__in=Instance.LIVE, host__availability=Host.Availability.DRAINING
    ).values("app_id")
    rows = App.objects.filter(free(at)).filter(
        Q(route_wanted__gt=F("route_published"))
        | Q(deleting_at__isnull=False)
        | Q(rollouts__status__in=Rollout.OPEN)
        | Q(pk__in=off)
        | Q(pk__in=everywhere)
        | Q(pk__in=retiring)
        | Q(pk__in=moving)
    )
    # In no order: if there were ever more than the limit that can't be helped, the others would never be looked at.
    return list(App.objects.filter(pk__in=rows.values("pk")).order_by("?").values_list("pk", flat=True)[:limit])


def unfinished_instances(limit: int, rest_s: float = 1.0) -> list[tuple[int, ...]]:
    """Instances that wait for a move and that nobody works on, for ``rest_s`` at least: that spares what is just under
    way. What is to be started on one host comes together, the others each by itself.

    Those that run and are not ready yet wait for nothing but an answer, which the probe pass asks for.
    """
    waiting = (*_TO_START, *Instance.LEAVING)
    at = now()
    rows = Instance.objects.filter(
        free(at), released=False, status__in=waiting, status_since__lt=at - timedelta(seconds=rest_s)
    ).exclude(_resting(at))
    alone: list[tuple[int, ...]] = []
    to_start: dict[int, list[int]] = defaultdict(list)
    for pk, status, host, had in rows.order_by("?").values_list("pk", "status", "host_id", "container_id")[:limit]:
        if status in _TO_START and not had:
            to_start[host].append(pk)
        else:
            alone.append((pk,))
    return alone + [tuple(some) for pks in to_start.values() for some in batched(sorted(pks), TOGETHER)]


_TO_START = (Instance.Status.PLACED, Instance.Status.STARTING)


def batched(pks: Sequence[int], most: int) -> list[Sequence[int]]:
    return [pks[start : start + most] for start in range(0, len(pks), most)]


def _resting(at: datetime) -> Q:
    """To be started anew, and not yet; its old container is gone already."""
    return Q(status=Instance.Status.PLACED, container_id="", retry_at__gt=at)


#: So many workers wait for one host at most: one that hangs must leave the others to the other hosts.
WORKERS_PER_HOST = 4


def crowded(instance: Instance) -> bool:
    """Whether enough is under way at this instance's host already, what is started together with this one aside."""
    values: dict[str, compiled.Value] = {"host_id": instance.host_id, "mine": instance.lease_owner, "at": now()}
    return len(compiled.select(_at_host, values)) >= WORKERS_PER_HOST


def _at_host(*, host_id: int, mine: str, at: datetime) -> QuerySet[Instance, tuple[int]]:
    busy = (Instance.Status.STARTING, *Instance.LEAVING)
    others = Instance.objects.filter(host_id=host_id, released=False, lease_until__gte=at, status__in=busy)
    return others.exclude(lease_owner=mine).order_by().values_list("pk")[:WORKERS_PER_HOST]


#: So many of a host are started by one task, each with all that it takes from a worker but once.
TOGETHER = 8


def next_to_start(host_id: int) -> list[int]:
    """Some that were turned away for the host's being crowded. Those that are placed only have a nudge of their own."""
    return [pk for (pk,) in compiled.select(_turned_away, {"host_id": host_id, "at": now()})]


def _turned_away(*, host_id: int, at: datetime) -> QuerySet[Instance, tuple[int]]:
    rows = Instance.objects.filter(free(at), host_id=host_id, released=False, status=Instance.Status.STARTING)
    return rows.order_by("pk").values_list("pk")[:TOGETHER]


def instance_read(pk: int) -> Instance | None:
    """With all that reconcile asks of it."""
    return next(iter(_whole(compiled.objects(_with_all, {"pk": pk}))), None)


def leased(pks: Sequence[int], owner: str) -> list[Instance]:
    """Those of them whose lease the owner has, in the same way."""
    values: dict[str, compiled.Value] = {"owner": owner, **{f"pk{number}": pk for number, pk in enumerate(pks)}}
    return _whole(compiled.objects(_with_lease, values, len(pks)))


def _whole(found: list[Instance]) -> list[Instance]:
    for one in found:
        one.replica_set.release = release_of(one.replica_set.release_id)
    return found


def _with_all(**pks: int) -> QuerySet[Instance]:
    rows = Instance.objects.select_related("app__tenant__plan", "host__cluster", "replica_set")
    return rows.filter(pk__in=list(pks.values())).order_by("pk")


def _with_lease(*, owner: str, **pks: int) -> QuerySet[Instance]:
    return _with_all(**pks).filter(lease_owner=owner, released=False)


def moved_on(left: Mapping[int, str]) -> list[int]:
    """Those that are in another status by now than they were left in, where there is still something to be done."""
    values: dict[str, compiled.Value] = {f"pk{number}": pk for number, pk in enumerate(left)}
    return [pk for pk, status in compiled.select(_status_of, values, len(left)) if status != left[pk]]


def _status_of(**pks: int) -> QuerySet[Instance, tuple[int, str]]:
    return Instance.objects.filter(pk__in=list(pks.values()), released=False).order_by().values_list("pk", "status")


@lru_cache(maxsize=1000)
def release_of(release_id: int) -> Release:
    """With its version and repository. It is read once per process: what it says never changes."""
    return Release.objects.select_related("version__repository").get(pk=release_id)


#: So many workers wait for containers of one tenant to stop at most, each for their grace: of four there are.
STOPS_PER_TENANT = 2


def stopping_enough(instance: Instance) -> bool:
    """Whether enough workers stop instances of its tenant already, this one not counted."""
    others = _stopping(instance).filter(lease_until__gte=now())
    return others.count() >= STOPS_PER_TENANT


def next_to_stop(instance: Instance) -> list[int]:
    """One of its tenant that waited for its turn."""
    return list(_stopping(instance).filter(free()).order_by("pk").values_list("pk", flat=True)[:1])


def _stopping(instance: Instance) -> QuerySet[Instance]:
    rows = Instance.objects.filter(app__tenant_id=instance.app.tenant_id, released=False)
    return rows.filter(status=Instance.Status.DRAINING).exclude(pk=instance.pk)


def recent_failures(replica_set_id: int, since: datetime) -> QuerySet[Instance]:
    """Instances of the set that ended badly and soon after their start, the latest first.

    One that ran well for a while says nothing about a crash loop: a restarted host ends many such at once.
    """
    return Instance.objects.filter(
        replica_set_id=replica_set_id,
        status__in=(Instance.Status.FAILED, Instance.Status.UNHEALTHY),
        status_since__gte=since,
        status_since__lt=F("created_at") + timedelta(seconds=SETTLED_S),
    ).order_by("-status_since")


def own_failures(replica_set_id: int, since: datetime) -> QuerySet[Instance]:
    """Those of them that speak against the app and not against the platform (codes ``engine.*`` and ``host.*``)."""
    rows = recent_failures(replica_set_id, since)
    return rows.exclude(code__startswith="engine.").exclude(code__startswith="host.")


def live_gateways(lease_s: int | None = None) -> QuerySet[Gateway]:
    """Those that may still route: seen within the lease (seconds), even if ZooKeeper has lost them since."""
    lease = settings.GATEWAY_LEASE_S if lease_s is None else lease_s
    return Gateway.objects.filter(last_seen_at__gte=now() - timedelta(seconds=lease))
