"""An instance's moves. Each is one compare-and-swap; False says that somebody else moved it first.

Those that change what is routed take the app's row before the instance's: rollouts, which hold the app's, move
instances too, and the other way round the two would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from apps.core import compiled, events, jobs
from apps.core.clock import after, now
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
    fixed = {name: value for name, value in changes.items() if value is None or isinstance(value, bool)}
    values = {name: value for name, value in changes.items() if name not in fixed}

    def build(*, pk: int, status_since: datetime, **values: Any) -> tuple[QuerySet[Instance], dict[str, Any]]:
        rows = Instance.objects.filter(pk=pk, status__in=list(old), released=False)
        return rows, {"status": new, "status_since": status_since, **fixed, **values}

    given = {"pk": instance.pk, "status_since": now(), **values}
    if not compiled.update(build, given, (tuple(old), new, *fixed.items(), *values)):
        return False
    for name, value in {"status": new, **changes}.items():
        setattr(instance, "rebuild_as_id" if name == "rebuild_as" else name, value)
    return True


def _record(instance: Instance, code: str, message: str, level: str = "info", **detail: str) -> None:
    events.record(
        code,
        message,
        level=level,
        tenant_id=instance.app.tenant_id,
        app_id=instance.app_id,
        host_id=instance.host_id,
        instance=str(instance.uid),
        **detail,
    )


def instance_starting(*, instance: Instance) -> bool:
    return _move(instance, [Status.PLACED], Status.STARTING, deadline_at=after(settings.START_DEADLINE_S))


@transaction.atomic
def instance_started(*, instance: Instance, container_id: str) -> bool:
    """Its container runs; whether it is ready is another question."""
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


@transaction.atomic
def instance_ready(*, instance: Instance) -> bool:
    """It answered its check: from the next publication on it gets traffic."""
    app_taken(app_id=instance.app_id)
    well: dict[str, Any] = {"failures": 0, "failing_since": None, "code": "", "reason": "", "exit_code": None}
    # Published anew, it is unpublished anew.
    well |= {"unrouted_epoch": "", "unrouted_zxid": 0, "unrouted_at": None}
    if not instance.ready_at:
        well["ready_at"] = now()
    if not _move(instance, [Status.RUNNING], Status.HEALTHY, deadline_at=None, was_routed=True, **well):
        return False
    _record(instance, "instance.ready", f"Instance {instance.short_id} is ready.")
    route_touch(app_id=instance.app_id)
    return True


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
