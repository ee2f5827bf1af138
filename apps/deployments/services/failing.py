"""What follows from failed checks and ended containers. Each move is one compare-and-swap, as in instances.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.deployments.backoff import delay_s
from apps.deployments.checks import Check
from apps.deployments.models import Instance, Release, ReplicaSet, Rollout
from apps.deployments.selectors import SETTLED_S
from apps.deployments.services.apps import app_taken, route_touch
from apps.deployments.services.instances import instance_fail, instance_unhealthy

Status = Instance.Status
OnFailure = Release.OnFailure

UNHEALTHY = "instance.unhealthy"
#: Nothing depends on how many more there were, and the column is a small one.
COUNTED = 100
_SETTLED = timedelta(seconds=SETTLED_S)


def threshold(check: Check) -> int:
    """So many failed checks in a row count."""
    return check.failures or settings.PROBE_FAILURES


def answers_counted(
    *, pks: Sequence[int], live: bool, was: int, count: int, last_check: str | None, acts: bool
) -> bool:
    """Count the same for these instances, which all had ``was`` failed checks in a row. False if one had not.

    ``live``: of the liveness check. ``acts``: what is done on a failure follows from this check. ``last_check``: None
    leaves the text as it is.
    """
    column = "live_failures" if live else "failures"
    changes: dict[str, Any] = {column: count}
    if last_check is not None:
        changes["last_check"] = last_check
    if not live and was == 0:
        changes["failing_since"] = now()
    if count == 0:
        if not live:
            changes["failing_since"] = None
        if acts:
            changes |= {"code": "", "reason": ""}
    statuses = (Status.HEALTHY, Status.RUNNING) if live else (Status.HEALTHY,)
    rows = Instance.objects.filter(pk__in=pks, released=False, status__in=statuses, **{column: was})
    return rows.update(**changes) == len(pks)


@transaction.atomic
def instance_unready(*, instance: Instance, reason: str) -> bool:
    """It is alive and not ready: no traffic until its next good answer."""
    app_taken(app_id=instance.app_id)
    rows = Instance.objects.filter(pk=instance.pk, status=Status.HEALTHY, released=False)
    if not rows.update(status=Status.RUNNING, status_since=now(), deadline_at=None, failures=0, failing_since=None):
        return False
    _record(instance, "instance.unready", f"Instance {instance.short_id} gets no traffic: {reason[:500]}")
    route_touch(app_id=instance.app_id)
    return True


def instance_broken(
    *,
    instance: Instance,
    code: str,
    reason: str,
    exit_code: int | None = None,
    container_id: str = "",
    last_check: str = "",
) -> bool:
    """It is not alive any more: do what its release says. Needs its app and its release.

    ``instance.unhealthy`` is one that still runs; any other ``code`` is one that does not serve, which "only report"
    does not leave as it is. ``container_id``: of one that ended before it was noted that it began.
    """
    policy = _policy(instance)
    if last_check:
        Instance.objects.filter(pk=instance.pk, released=False).exclude(last_check=last_check).update(
            last_check=last_check
        )
    if policy == OnFailure.RESTART and (instance.container_id or container_id):
        return instance_restart(
            instance=instance, code=code, reason=reason, exit_code=exit_code, container_id=container_id
        )
    if policy == OnFailure.REPORT and code == UNHEALTHY:
        return _report(instance, reason)
    if policy == OnFailure.REMOVE:
        return _remove(instance, code, reason, exit_code)
    return _end(instance, code, reason, exit_code)


def _policy(instance: Instance) -> str:
    # While it is rolled out, what fails is evidence against it, and is replaced as often as the rollout allows.
    rolling = Rollout.objects.filter(target_id=instance.replica_set_id, status__in=Rollout.OPEN)
    return OnFailure.REPLACE if rolling.exists() else instance.replica_set.release.on_failure


def _end(instance: Instance, code: str, reason: str, exit_code: int | None) -> bool:
    if code == UNHEALTHY:
        return instance_unhealthy(instance=instance, reason=reason)
    return instance_fail(instance=instance, code=code, reason=reason, exit_code=exit_code)


@transaction.atomic
def _remove(instance: Instance, code: str, reason: str, exit_code: int | None) -> bool:
    """It goes and is not replaced: one fewer is wanted."""
    # Whoever changes several rows of an app takes the app's first, as rollouts do.
    app_taken(app_id=instance.app_id)
    if not _end(instance, code, reason, exit_code):
        return False
    if not ReplicaSet.objects.filter(pk=instance.replica_set_id, wanted__gt=0).update(wanted=F("wanted") - 1):
        return True
    left = ReplicaSet.objects.values_list("wanted", flat=True).get(pk=instance.replica_set_id)
    _record(
        instance,
        "instance.removed",
        f"Instance {instance.short_id} is removed and not replaced: {left} are wanted now.",
        cause=code,
    )
    return True


@transaction.atomic
def _report(instance: Instance, reason: str) -> bool:
    """Say so, once for each time that it begins; it stays as it is."""
    rows = Instance.objects.filter(pk=instance.pk, status=instance.status, released=False).exclude(code=UNHEALTHY)
    if not rows.update(code=UNHEALTHY, reason=reason[:500]):
        return False
    message = f"Instance {instance.short_id} fails its checks and is left as it is: {reason[:500]}"
    _record(instance, UNHEALTHY, message)
    return True


@transaction.atomic
def instance_restart(
    *, instance: Instance, code: str, reason: str, exit_code: int | None = None, container_id: str = ""
) -> bool:
    """The same row on the same host and port gets a new container, perhaps after a rest.

    As PLACED with a ``container_id`` it still has the old one; the loop unpublishes and removes it first. Not once
    somebody else has restarted it since it was read.
    """
    app_taken(app_id=instance.app_id)
    settled = instance.status == Status.HEALTHY and now() >= instance.status_since + _SETTLED
    restarts = 0 if settled else instance.restarts
    delay = delay_s(restarts)
    rows = Instance.objects.filter(
        pk=instance.pk,
        released=False,
        status__in=(Status.STARTING, Status.RUNNING, Status.HEALTHY),
        restarts=instance.restarts,
    )
    if not rows.update(
        status=Status.PLACED,
        status_since=now(),
        deadline_at=None,
        container_id=instance.container_id or container_id,
        restarts=restarts + 1,
        retry_at=after(delay),
        code=code,
        reason=reason[:500],
        exit_code=exit_code,
        failures=0,
        failing_since=None,
        live_failures=0,
    ):
        return False
    when = f" in {delay} s" if delay else ""
    _record(
        instance,
        "instance.restarting",
        f"Instance {instance.short_id} is started anew where it is{when}: {reason[:500]}",
        cause=code,
    )
    route_touch(app_id=instance.app_id)
    jobs.enqueue(jobs.RECONCILE_INSTANCE, instance.pk)
    return True


def instance_cleared(*, instance: Instance) -> bool:
    """Its old container is gone, and gateways were waited for: nothing stands between it and its next start.

    Since when it is not published is kept until it is ready again: if it never is, its port rests until all gateways
    have let go of it, which not all of them may have done in time.
    """
    rows = Instance.objects.filter(
        pk=instance.pk, status=Status.PLACED, released=False, container_id=instance.container_id
    )
    return bool(
        rows.update(
            status_since=now(),
            container_id="",
            was_routed=False,
            unrouted_at=None,
            deadline_at=None,
        )
    )


def _record(instance: Instance, code: str, message: str, **detail: str) -> None:
    events.record(
        code,
        message,
        level="warning",
        tenant_id=instance.app.tenant_id,
        app_id=instance.app_id,
        host_id=instance.host_id,
        instance=str(instance.uid),
        **detail,
    )
