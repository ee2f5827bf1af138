"""One host: what its engine says runs there, against what should."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models import QuerySet

from apps.core import compiled, events, jobs
from apps.core.clock import now
from apps.core.leases import held
from apps.deployments.models import Instance
from apps.deployments.models.instances import short_id_of
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.containers import exited, spec_of
from apps.deployments.reconcile.routes import publish
from apps.deployments.services.failing import instance_broken
from apps.deployments.services.instances import instance_lost
from apps.hosts.engines.base import ContainerState, Engine, EngineError, Observed
from apps.hosts.models import Host
from apps.hosts.selectors import host_with_engine
from apps.hosts.services.health import evictions_allowed, host_drained, host_seen, host_silent

log = structlog.get_logger(__name__)

#: Containers of a host that came back are removed so many at a time: until they are gone, nothing is placed there.
REMOVED_AT_ONCE = 8
_SHORT_ID = re.compile(r"[0-9a-f]{12}")
#: What asking an engine for an instance's container reads.
_OF_ENGINE = ("host__cluster", "replica_set__release__version__repository")


def observe_host(host_id: int, clients: Clients) -> None:
    """Ping, list, compare. An engine that fails to answer changes nothing but the host's own status, until the host
    counts as down: then what does not answer there is given up and placed elsewhere.
    """
    with held(Host, host_id) as mine:
        if not mine:
            return
        host = host_with_engine(host_id)
        asked_at = now()
        # Before the engine is asked: what starts meanwhile is not in its answer. No clock tells that apart, since
        # another machine's wrote when it started.
        held_here = compiled.select(_held_on, {"host_id": host.pk})
        expected = {
            pk: (container_id, uid) for pk, container_id, uid, status in held_here if status in Instance.WITH_CONTAINER
        }
        try:
            engine = clients.engine(host)
            info = engine.ping()
            found = engine.list(settings.PLATFORM_ID)
        except EngineError as error:
            if host_silent(host=host, error=str(error)) == Host.Status.DOWN:
                _give_up(host)
            return
        ours = _whose({short_id_of(uid) for _, _, uid, _ in held_here}, found)
        # Gateways may still route to what was given up slowly: its container, or its port, is in use.
        slowly = any(status == Instance.Status.LOST for *_, status in held_here)
        clean = _remove_given_up(engine, ours) and not slowly
        platform = info.os, info.architecture
        host_seen(host=host, engine_version=info.version, platform=platform, at=asked_at, clean=clean)
        if host.cluster.evictions_stopped_at is not None:
            evictions_allowed(cluster_id=host.cluster_id, holding=_silent_holders(host.cluster_id))
        by_instance = {one.instance: one for one in found}
        running = {one.instance for one in found if one.state is ContainerState.RUNNING}
        # Nearly all run as they should, and need not be read for that.
        doubtful = [pk for pk, (_, uid) in expected.items() if short_id_of(uid) not in running]
        for instance in _doubtful(host.pk, doubtful):
            if instance.container_id == expected[instance.pk][0]:  # else it was started anew meanwhile
                _compare(instance, by_instance.get(instance.short_id))
        _remove_unknown(host, engine, ours)
        if host.availability == Host.Availability.DRAINING and not _held(host):
            host_drained(host=host)


def container_ended(host_id: int, short_id: str, clients: Clients) -> bool:
    """Somebody says that this instance's container on the host ended: look at it, and unroute it at once if so.

    That somebody may be wrong, late or a liar: what counts is what the engine answers now. True if it had ended, and
    this was the first to see it. Needs no Redis: neither the database nor ZooKeeper waits for the nudges.
    """
    rows = _with_container(host_id).filter(uid__range=_uids(short_id)).order_by("pk")
    instance = rows.select_related("app__tenant__plan", *_OF_ENGINE).first()
    if instance is None:
        return False
    try:
        observed = clients.engine(instance.host).inspect(spec_of(instance).name)
    except EngineError as error:
        log.warning("end_unseen", instance=str(instance.uid), host=instance.host.name, error=str(error))
        return False
    if observed is not None and observed.container_id != instance.container_id:
        # It was started anew meanwhile.
        return False
    with jobs.sent_last():
        ended = _compare(instance, observed)
        if ended:
            publish(instance.app_id, instance.app.slug, clients)
    return ended


def containers_look(host_id: int, clients: Clients) -> int:
    """Find what ended while nobody followed the host's events. Returns how many. Raises EngineError, HostMissing."""
    host = host_with_engine(host_id)
    expected = [one.short_id for one in _with_container(host_id).only("uid")]
    found = clients.engine(host).list(settings.PLATFORM_ID)
    running = {one.instance for one in found if one.state is ContainerState.RUNNING}
    return sum(container_ended(host_id, one, clients) for one in expected if one not in running)


@dataclass(frozen=True, slots=True)
class _Found:
    """A container of ours: of an instance that is over, of nobody's (stray), or neither."""

    observed: Observed
    over: bool = False
    stray: bool = False


def _doubtful(host_id: int, pks: Sequence[int]) -> Iterable[Instance]:
    if not pks:
        # Not even a query that finds nothing: writing it takes longer than the rest of a look.
        return ()
    return _with_container(host_id).filter(pk__in=pks).select_related("app", "host", "replica_set__release")


def _held_on(*, host_id: int) -> QuerySet[Instance, tuple[int, str, UUID, str]]:
    rows = Instance.objects.filter(host_id=host_id, released=False).order_by()
    return rows.values_list("pk", "container_id", "uid", "status")


def _whose(here: Collection[str], found: Sequence[Observed]) -> list[_Found]:
    """Nearly all are of the host's own instances (``here``: their short ids, read before the engine was asked); the
    others' owners are looked for one by one.
    """
    ours = []
    for one in found:
        if one.instance in here:
            ours.append(_Found(one))
            continue
        instance = _instance_of(one.instance)
        ours.append(_Found(one, over=instance is not None and instance.released, stray=instance is None))
    return ours


def _instance_of(short_id: str) -> Instance | None:
    """The instance whose container's name this is in, the latest if there should be two."""
    return Instance.objects.filter(uid__range=_uids(short_id)).order_by("released", "-pk").first()


def _uids(short_id: str) -> tuple[UUID, UUID]:
    """The first and the last id that is shortened to this; of what is no short id, a range in which there is none."""
    if not _SHORT_ID.fullmatch(short_id):
        return UUID(int=0), UUID(int=0)
    return UUID(short_id.ljust(32, "0")), UUID(short_id.ljust(32, "f"))


def _with_container(host_id: int) -> QuerySet[Instance]:
    return Instance.objects.filter(host_id=host_id, released=False, status__in=Instance.WITH_CONTAINER)


def _silent_holders(cluster_id: int) -> set[int]:
    """Hosts that do not answer and hold instances."""
    silent = (Host.Status.SUSPECT, Host.Status.DOWN)
    rows = Instance.objects.filter(released=False, host__cluster_id=cluster_id, host__status__in=silent)
    return set(rows.order_by().values_list("host_id", flat=True).distinct())


def _held(host: Host) -> bool:
    return Instance.objects.filter(host=host, released=False).exists()


def _give_up(host: Host) -> None:
    """The host is down. What does not serve any more is lost, unless so many hosts are silent that it may be us."""
    holding = _silent_holders(host.cluster_id)
    if host.pk not in holding or not evictions_allowed(cluster_id=host.cluster_id, holding=holding):
        return
    here = Instance.objects.filter(host=host, released=False).exclude(status=Instance.Status.LOST)
    for instance in here.select_related("app"):
        instance_lost(instance=instance)


def _compare(instance: Instance, observed: Observed | None) -> bool:
    """Whether it ended, and was not known to."""
    if observed is None:
        reason = "Its container is gone; somebody removed it."
        return instance_broken(instance=instance, code="instance.vanished", reason=reason)
    return observed.state is not ContainerState.RUNNING and exited(instance, observed)


def _remove_given_up(engine: Engine, ours: Sequence[_Found]) -> bool:
    """Containers of instances that are over, such as those of a host that came back. True when none is left."""
    over = [one.observed for one in ours if one.over]
    if not over:
        return True

    def remove(one: Observed) -> bool:
        try:
            # They serve nobody: gateways have let go of them before they were given up.
            engine.remove(one.name, grace_s=0)
        except EngineError as error:
            log.warning("given_up_stays", container=one.name, error=str(error))
            return False
        return True

    with ThreadPoolExecutor(REMOVED_AT_ONCE) as pool:
        return all(list(pool.map(remove, over)))


def _remove_unknown(host: Host, engine: Engine, ours: Sequence[_Found]) -> None:
    """Containers of ours that nothing in the database knows. The list was taken first, so a new one can't be meant."""
    strays = [one.observed for one in ours if one.stray]
    if len(strays) > max(5, len(ours) // 2):
        # It looks more like a lost database than like so many lost containers, and they are tenants' work.
        log.error("orphans_refused", host=host.name, orphans=len(strays), containers=len(ours))
        return
    for one in strays:
        try:
            engine.remove(one.name, grace_s=10)
        except EngineError as error:
            log.warning("orphan_stays", container=one.name, error=str(error))
            continue
        events.record(
            "host.orphan_removed",
            f"Removed container {one.name} on {host.name}: no instance holds it.",
            level="warning",
            host_id=host.pk,
            container=one.container_id,
        )
