"""An instance's moves. Each is one compare-and-swap; False says that somebody else moved it first.

Those that change what is routed take the app's row before the instance's: rollouts, which hold the app's, move
instances too, and the other way round the two would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from apps.core import compiled, events, jobs
from apps.core.clock import after, now
from apps.core.models import Event
from apps.deployments.checks import readiness_of
from apps.deployments.models import Instance, ReplicaSet
from apps.deployments.services import candidates
from apps.deployments.services.apps import app_taken, route_touch
from apps.deployments.services.placement import request_of
from apps.hosts.models import Allocation
from apps.hosts.services.claims import Contended, free, hand_over, held_by
from apps.tenants.services.tenants import QuotaExceeded, quota_claim, quota_release

Status = Instance.Status


def _move(instance: Instance, old: Iterable[str], new: str, **changes: Any) -> bool:
    """Compare and swap; what was changed is changed in ``instance`` too."""
    return bool(_move_all([instance], old, new, **changes))


def _move_all(instances: Sequence[Instance], old: Iterable[str], new: str, **changes: Any) -> list[Instance]:
    """The same for several at once, part of the caller's transaction. Returns those that were moved."""
    fixed = {name: value for name, value in changes.items() if value is None or isinstance(value, bool)}
    values = {name: value for name, value in changes.items() if name not in fixed}
    pks = {f"pk{number}": one.pk for number, one in enumerate(instances)}

    def build(*, at: datetime, **given: Any) -> tuple[QuerySet[Instance], dict[str, Any]]:
        rows = Instance.objects.filter(pk__in=[given.pop(name) for name in pks], status__in=list(old), released=False)
        return rows, {"status": new, "status_since": at, **fixed, **given}

    at = now()
    shape = (len(pks), tuple(old), new, *fixed.items(), *values)
    moved = compiled.update(build, {**pks, "at": at, **values}, shape)
    left = list(instances)
    if 0 < moved < len(left):
        # Somebody moved some of them first. Those that are ours now are locked by us, and say when that was.
        ours = Instance.objects.filter(pk__in=list(pks.values()), status=new, status_since=at)
        mine = set(ours.values_list("pk", flat=True))
        left = [one for one in left if one.pk in mine]
    elif not moved:
        left = []
    for one in left:
        for name, value in {"status": new, **changes}.items():
            setattr(one, "rebuild_as_id" if name == "rebuild_as" else name, value)
    return left


def _record(instance: Instance, code: str, message: str, level: str = "info", **detail: str) -> None:
    events.append([_event(instance, code, message, level, **detail)])


def _event(instance: Instance, code: str, message: str, level: str = "info", **detail: str) -> Event:
    return Event(
        code=code,
        message=message,
        level=level,
        tenant_id=instance.app.tenant_id,
        app_id=instance.app_id,
        host_id=instance.host_id,
        detail={"instance": str(instance.uid), **detail},
    )


@transaction.atomic
def instances_starting(*, instances: Sequence[Instance]) -> list[Instance]:
    """Those of them that were moved."""
    if not instances:
        return []
    _in_order(instances)
    return _move_all(instances, [Status.PLACED], Status.STARTING, deadline_at=after(settings.START_DEADLINE_S))


@transaction.atomic
def instances_started(*, containers: Mapping[Instance, str]) -> list[Instance]:
    """Their containers (by id) run; whether they are ready is another question. Those that were moved."""
    _in_order(list(containers))
    return [one for one, container_id in containers.items() if _started(one, container_id)]


def _in_order(instances: Sequence[Instance]) -> None:
    """Lock several rows in the order of their ids, as everybody does: no two wait for each other in a ring."""
    if len(instances) > 1:
        compiled.select(_rows, {f"pk{number}": one.pk for number, one in enumerate(instances)}, len(instances))


def _rows(**pks: int) -> QuerySet[Instance, tuple[int]]:
    rows = Instance.objects.filter(pk__in=list(pks.values())).order_by("pk")
    return rows.select_for_update(no_key=True).values_list("pk")


def _started(instance: Instance, container_id: str) -> bool:
    return _move(
        instance,
        [Status.STARTING],
        Status.RUNNING,
        container_id=container_id,
        deadline_at=after(_start_period(instance)),
        running_at=now(),
    )


def _start_period(instance: Instance) -> int:
    """How long it may take to its first good answer. Seconds."""
    return readiness_of(instance.replica_set.release).start_period_s or settings.READY_DEADLINE_S


def instance_ready(*, instance: Instance) -> bool:
    """It answered its check: from the next publication on it gets traffic."""
    return bool(instances_ready(instances=[instance]))


@transaction.atomic
def instances_ready(*, instances: Sequence[Instance]) -> list[Instance]:
    """The same for several of one app, which is published anew once. Those that were moved."""
    if not instances:
        return []
    app_id = instances[0].app_id
    app_taken(app_id=app_id)
    _in_order(instances)
    moved = _well([one for one in instances if one.ready_at])
    moved += _well([one for one in instances if not one.ready_at], ready_at=now())
    if moved:
        events.append([_event(one, "instance.ready", f"Instance {one.short_id} is ready.") for one in moved])
        route_touch(app_id=app_id)
    return moved


def _well(instances: Sequence[Instance], **changes: Any) -> list[Instance]:
    if not instances:
        return []
    well: dict[str, Any] = {"failures": 0, "failing_since": None, "code": "", "reason": "", "exit_code": None}
    # Published anew, it is unpublished anew.
    well |= {"unrouted_epoch": "", "unrouted_zxid": 0, "unrouted_at": None, **changes}
    return _move_all(instances, [Status.RUNNING], Status.HEALTHY, deadline_at=None, was_routed=True, **well)


@transaction.atomic
def instance_fail(*, instance: Instance, code: str, reason: str, exit_code: int | None = None) -> bool:
    """It will not serve (any more). It is unpublished, removed and freed by the loop, and replaced if wanted."""
    app_taken(app_id=instance.app_id)
    old = [Status.PLACED, Status.STARTING, Status.RUNNING, Status.HEALTHY]
    ended = {"code": code, "reason": reason[:500], "exit_code": exit_code, **_until_let_go()}
    if not _move(instance, old, Status.FAILED, **ended):
        return False
    _record(instance, "instance.failed", f"Instance {instance.short_id} failed: {reason[:500]}", "warning", cause=code)
    _leave(instance)
    return True


@transaction.atomic
def instance_unhealthy(*, instance: Instance, reason: str) -> bool:
    """It was ready and stopped answering its checks; or it is alive no more, by a check of its own, since."""
    app_taken(app_id=instance.app_id)
    old = [Status.HEALTHY, Status.RUNNING]
    if not _move(instance, old, Status.UNHEALTHY, code="instance.unhealthy", reason=reason[:500]):
        return False
    _record(
        instance,
        "instance.unhealthy",
        f"Instance {instance.short_id} no longer answers: {reason[:500]}",
        "warning",
    )
    _leave(instance)
    return True


@transaction.atomic
def instance_lost(*, instance: Instance) -> bool:
    """Its host is given up. What it served is served elsewhere; its container is removed when the host comes back.

    One whose checks still succeed is not lost, whatever its host's engine says: it serves.
    """
    app_taken(app_id=instance.app_id)
    unproven = [Status.PLACED, Status.STARTING, Status.RUNNING, Status.DRAINING, Status.UNHEALTHY, Status.FAILED]
    rows = Instance.objects.filter(pk=instance.pk, released=False).filter(
        Q(status__in=unproven) | Q(status=Status.HEALTHY, failures__gte=settings.PROBE_FAILURES)
    )
    reason = "Its host does not answer any more."
    values = {"status": Status.LOST, "status_since": now(), "code": "host.lost", "reason": reason}
    if not rows.update(**values, **_until_let_go()):
        return False
    _record(instance, "instance.lost", f"Instance {instance.short_id} was lost: its host does not answer.", "warning")
    _leave(instance)
    return True


@transaction.atomic
def instance_drain(*, instance: Instance, rebuild_as: int | None = None) -> bool:
    """It is wanted no more. ``rebuild_as``: the replica set one of which takes its place once it is gone."""
    app_taken(app_id=instance.app_id)
    old = [Status.PLACED, Status.STARTING, Status.RUNNING, Status.HEALTHY]
    if not _move(instance, old, Status.DRAINING, rebuild_as=rebuild_as, **_until_let_go()):
        return False
    _leave(instance)
    return True


def _until_let_go() -> dict[str, Any]:
    """Perhaps it is unpublished already and waits for gateways: that wait goes on, and has an end."""
    return {"deadline_at": after(settings.DRAIN_DEADLINE_S)}


def _leave(instance: Instance) -> None:
    Instance.objects.filter(pk=instance.pk, leaving_at=None).update(leaving_at=now())
    route_touch(app_id=instance.app_id)
    jobs.enqueue(jobs.RECONCILE_INSTANCE, instance.pk)


def instance_unrouted(*, instance: Instance, epoch: str, zxid: int) -> None:
    """Note the ZooKeeper transaction from which on it is not published, and until when gateways are waited for."""
    Instance.objects.filter(pk=instance.pk, unrouted_zxid=0).update(
        unrouted_epoch=epoch, unrouted_zxid=zxid, deadline_at=after(settings.DRAIN_DEADLINE_S), unrouted_at=now()
    )


@transaction.atomic
def instance_released(*, instance: Instance) -> bool:
    """Its container is gone, or given up with its host: free what it held, all in one transaction."""
    # Who scales or rolls out holds the app's row, then a set's, then the quota's: here the set's comes last.
    app_taken(app_id=instance.app_id)
    finals = {Status.DRAINING: Status.STOPPED, Status.LOST: Status.LOST}
    final = finals.get(Status(instance.status), Status.FAILED)
    if not _move(instance, [instance.status], final, released=True, deadline_at=None, released_at=now()):
        return False
    allocation = held_by(instance.uid)
    if allocation is not None and not instance_rebuilt(instance=instance, allocation=allocation):
        quota_release(
            tenant_id=allocation.tenant_id,
            memory_mb=allocation.memory_mb,
            cpu_millis=allocation.cpu_millis,
            instances=1,
        )
        free(allocation=allocation, epoch=instance.unrouted_epoch, zxid=instance.unrouted_zxid)
    if final == Status.STOPPED:
        _record(instance, "instance.stopped", f"Instance {instance.short_id} was stopped and removed.")
    # What it held may be just what a replacement waits for. A back-off is worked out anew from the failures.
    ReplicaSet.objects.filter(pk=instance.replica_set_id).update(retry_at=None)
    jobs.enqueue(jobs.RECONCILE_APP, instance.app_id)
    return True


def _may_be_at(heir: ReplicaSet, host_id: int) -> bool:
    """Whether a placement would take this host too, its room aside: it may have been dedicated to another tenant since,
    or the new release's rules may mean other hosts.
    """
    request = request_of(heir.release, tenant_id=heir.app.tenant_id)
    if request.rules.one_per_host and heir.instances.filter(host_id=host_id, released=False).exists():
        return False
    return candidates.matching(heir.app.cluster_id, request).filter(pk=host_id).exists()


def instance_rebuilt(*, instance: Instance, allocation: Allocation) -> bool:
    """One of another replica set takes this one's place, host, port and claim; part of the transaction that ends this.

    False where that is not asked for, or not possible: then it is placed like any other.
    """
    if not instance.rebuild_as_id or instance.status != Status.STOPPED:
        return False
    # As it is now: the rollout may have been given up since the instance was read.
    heir = ReplicaSet.objects.select_related("release", "app").filter(rebuilding=instance.pk).first()
    if heir is None or not heir.wanted or not _may_be_at(heir, instance.host_id):
        return False
    release = heir.release
    new = Instance(
        app=heir.app,
        replica_set=heir,
        host_id=instance.host_id,
        port=instance.port,
        deadline_at=after(settings.START_DEADLINE_S),
        why={"in place": 1.0},
        # Gateways may not have let go of the port in time. If this one never gets ready, it rests until they have.
        unrouted_epoch=instance.unrouted_epoch,
        unrouted_zxid=instance.unrouted_zxid,
    )
    had = {"memory_mb": allocation.memory_mb, "cpu_millis": allocation.cpu_millis, "instances": 1}
    takes = {"memory_mb": release.memory_mb, "cpu_millis": release.cpu_millis, "instances": 1}
    try:
        with transaction.atomic():
            quota_release(tenant_id=allocation.tenant_id, **had)
            quota_claim(tenant_id=allocation.tenant_id, **takes, beyond=False)
            hand_over(allocation=allocation, owner=new.uid, memory_mb=release.memory_mb, cpu_millis=release.cpu_millis)
            new.save()
    except (Contended, QuotaExceeded):
        return False
    jobs.enqueue(jobs.RECONCILE_INSTANCE, new.pk)
    return True
