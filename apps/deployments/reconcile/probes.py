"""Noting how instances answer their checks: what is ready gets traffic, what stopped answering is replaced."""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError

from apps.deployments.models import Instance
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.probing import Target
from apps.deployments.services.instances import instance_fail, instance_ready, instance_unhealthy, probe_noted

#: So far may the clock of whoever looks at hosts be from that of whoever probes. Three checks take longer. Seconds.
CLOCKS_APART_S = 2

log = structlog.get_logger(__name__)


def target_of(instance: Instance) -> Target:
    """Where and how this instance is asked."""
    path = instance.replica_set.release.health_path
    return Target(instance.pk, instance.host.address, instance.port, path)


def probe_pass(clients: Clients) -> int:
    """Ask every instance that runs, and note the answers. Returns how many were asked."""
    rows = Instance.objects.filter(
        released=False, status__in=(Instance.Status.RUNNING, Instance.Status.HEALTHY)
    ).select_related("host", "app", "replica_set__release")
    instances = {row.pk: row for row in rows}
    results = clients.probe([target_of(row) for row in instances.values()])
    for pk, wrong in results.items():
        try:
            _note(instances[pk], wrong)
        except DatabaseError as error:
            # One row's trouble is not the others'.
            log.error("probe_unnoted", instance=str(instances[pk].uid), error=str(error))
    return len(results)


def _note(instance: Instance, wrong: str | None) -> None:
    if instance.status == Instance.Status.RUNNING:
        if wrong is None:
            instance_ready(instance=instance)
        elif not instance.host.silent and passed(instance):
            never_ready(instance, wrong)
        return
    count = probe_noted(instance=instance, failed=wrong is not None)
    if wrong is None or count < settings.PROBE_FAILURES:
        return
    if _cut_off(instance):
        log.warning("probe_blind", instance=str(instance.uid), host=instance.host.name)
        return
    instance_unhealthy(instance=instance, reason=f"{count} checks in a row failed, the last: {wrong}.")


def _cut_off(instance: Instance) -> bool:
    """Whether its host was not heard of either since its checks began to fail: then their silence proves nothing."""
    row = Instance.objects.filter(pk=instance.pk).values_list("failing_since", "host__last_seen_at").first()
    if row is None:
        return True
    failing_since, seen = row
    return failing_since is None or seen is None or seen <= failing_since + timedelta(seconds=CLOCKS_APART_S)


def never_ready(instance: Instance, wrong: str) -> bool:
    release = instance.replica_set.release
    check = f"GET {release.health_path}" if release.health_path else "a TCP connect"
    return instance_fail(
        instance=instance,
        code="instance.never_ready",
        reason=f"It did not become ready in time: {check} on port {release.container_port}: {wrong}.",
    )
