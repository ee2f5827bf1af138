"""One host: what its engine says runs there, against what should."""

from __future__ import annotations

from uuid import UUID

import structlog
from django.conf import settings

from apps.core import events
from apps.core.clock import now
from apps.core.leases import held
from apps.deployments.models import Instance
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.instance import exited
from apps.deployments.services.instances import instance_fail
from apps.hosts.engines.base import ContainerState, Engine, EngineError, Observed
from apps.hosts.models import Host
from apps.hosts.selectors import host_with_engine
from apps.hosts.services.health import host_seen, host_silent

log = structlog.get_logger(__name__)


def observe_host(host_id: int, clients: Clients) -> None:
    """Ping, list, compare. An engine that fails to answer changes nothing but the host's own status."""
    with held(Host, host_id) as mine:
        if not mine:
            return
        host = host_with_engine(host_id)
        asked_at = now()
        try:
            engine = clients.engine(host)
            info = engine.ping()
            found = engine.list(settings.PLATFORM_ID)
        except EngineError as error:
            host_silent(host=host, error=str(error))
            return
        host_seen(host=host, engine_version=info.version)
        by_instance = {one.instance: one for one in found}
        expected = Instance.objects.filter(
            host=host, released=False, status__in=Instance.WITH_CONTAINER, status_since__lt=asked_at
        ).select_related("app", "host", "replica_set__release")
        for instance in expected:
            _compare(instance, by_instance.get(instance.short_id))
        _orphans(host, engine, found)


def _compare(instance: Instance, observed: Observed | None) -> None:
    if observed is None:
        instance_fail(instance=instance, code="instance.vanished", reason="Its container is gone; somebody removed it.")
    elif observed.state is not ContainerState.RUNNING:
        exited(instance, observed)


def _orphans(host: Host, engine: Engine, found: list[Observed]) -> None:
    """Containers of ours that nothing in the database holds. The list was taken first, so a new one can't be meant."""
    held_here = {row.short_id for row in Instance.objects.filter(host=host, released=False).only("uid")}
    strays = [one for one in found if one.instance not in held_here and not _held_elsewhere(one.instance)]
    if len(strays) > max(5, len(found) // 2):
        # It looks more like a lost database than like so many lost containers, and they are tenants' work.
        log.error("orphans_refused", host=host.name, orphans=len(strays), containers=len(found))
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


def _held_elsewhere(short_id: str) -> bool:
    """Whether an instance on another host row has this container: two rows may lead to one engine."""
    try:
        low, high = UUID(short_id.ljust(32, "0")), UUID(short_id.ljust(32, "f"))
    except ValueError:
        return False
    return Instance.objects.filter(uid__gte=low, uid__lte=high, released=False).exists()
