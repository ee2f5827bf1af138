"""Taking apps and tenants apart: one step after the other, each repeatable, each found again by the sweep.

Instances gone (unpublished, let go by gateways, stopped, removed, freed), hosts that are away back or removed, the
route out of ZooKeeper, the registry's repository empty, the rows gone. What is away delays the end and never loses it.
"""

from __future__ import annotations

import structlog

from apps.core.errors import PlatformError
from apps.deployments.models import App
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.routes import publish, withdraw
from apps.deployments.selectors import apps_of_tenant, hosts_away_of
from apps.deployments.services.deleting import (
    app_erase,
    app_rows_fewer,
    app_unwant,
    dedicated_hosts,
    delete_waits,
    tenant_apps_close,
    tenant_end,
)
from apps.registry.services.versions import repository_close, repository_erase
from apps.tenants.models import Tenant

log = structlog.get_logger(__name__)


def delete_on(app: App, clients: Clients) -> None:
    """Of an app whose lease the caller holds: as far as it goes now."""
    waits_for = _app_step(app, clients)
    if waits_for:
        log.info("delete_waits", app=app.slug, waits_for=waits_for)
        delete_waits(subject=app, waits_for=waits_for)


def _app_step(app: App, clients: Clients) -> str:
    """What is waited for; empty once the app is gone."""
    app_unwant(app=app)
    held = app.instances.filter(released=False).count()
    if held:
        app.refresh_from_db(fields=["route_wanted", "route_published"])
        if app.route_wanted > app.route_published:
            publish(app.pk, app.slug, clients)
        return f"{held} instances to be stopped and removed"
    away = list(hosts_away_of(app).values_list("name", flat=True))
    if away:
        # Which hosts is the operators' to know: the event is the tenant's to read too.
        log.warning("delete_waits_for_hosts", app=app.slug, hosts=away)
        return f"{len(away)} hosts that do not answer, to remove containers there"
    if not withdraw(app.pk, app.slug, clients):
        return "ZooKeeper, to withdraw the route"
    waits_for = _purged(app.slug, clients)
    if not waits_for and app_rows_fewer(app=app):
        app_erase(app_id=app.pk)
    return waits_for


def _purged(name: str, clients: Clients) -> str:
    try:
        return clients.purge(name)
    except PlatformError as error:
        log.warning("purge_failed", repository=name, code=error.code, error=error.detail)
        return "the registry, which does not answer as it should"


def reconcile_tenant(tenant_id: int, clients: Clients) -> None:
    """Of a tenant that is being deleted: as far as it goes now. Its apps are worked on by themselves."""
    tenant = Tenant.objects.filter(pk=tenant_id, deleting_at__isnull=False).first()
    if tenant is None:
        return
    tenant_apps_close(tenant_id=tenant.pk)
    waits_for = _tenant_step(tenant, clients)
    if waits_for:
        log.info("delete_waits", tenant=tenant.slug, waits_for=waits_for)
        delete_waits(subject=tenant, waits_for=waits_for)


def _tenant_step(tenant: Tenant, clients: Clients) -> str:
    apps = apps_of_tenant(tenant.pk).count()
    if apps:
        return f"{apps} apps to be deleted"
    hosts = len(dedicated_hosts(tenant))
    if hosts:
        return f"{hosts} hosts that are dedicated to it"
    for repository in tenant.repositories.all():
        # Without an app: none are made so, but what is there must not keep the tenant.
        repository_close(name=repository.name)
        if waits_for := _purged(repository.name, clients):
            return waits_for
        repository_erase(name=repository.name)
    tenant_end(tenant_id=tenant.pk)
    return ""
