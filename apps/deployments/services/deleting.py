"""Deleting apps, and tenants with all that they have: begun here, carried out by reconcile, ended here.

What is being deleted can be read and not changed any more. Events stay (they refer by id), and so do ports in
quarantine, until their time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.errors import Conflict, Invalid
from apps.core.models import Event
from apps.deployments.models import App, Instance, Rollout
from apps.deployments.selectors import apps_of_tenant, versions_of_app
from apps.deployments.services.apps import route_touch
from apps.deployments.services.domains import names_released
from apps.deployments.services.gateway_ports import ports_release
from apps.deployments.services.instances import instance_drain
from apps.deployments.services.moves import rollout_end
from apps.hosts.models import Host
from apps.registry.services.versions import repository_close, repository_erase
from apps.tenants.models import Tenant, User
from apps.tenants.permissions import Action, grants_end, operates, require, require_owner
from apps.tenants.services.deleting import tenant_close, tenant_erase

DELETE_TENANTS = "tenants.delete_tenant"
#: Instances that are over, in one transaction: an old app has many.
ROWS_AT_ONCE = 2000


class AppConfirmNeeded(Invalid):
    code = "apps.confirm_needed"


class TenantConfirmNeeded(Invalid):
    code = "tenants.confirm_needed"


class TenantHasApps(Conflict):
    code = "tenants.has_apps"


class TenantHasHosts(Conflict):
    code = "tenants.has_hosts"


@dataclass(frozen=True, slots=True)
class Going:
    """What goes with an app."""

    instances: int
    versions: int
    releases: int
    domains: tuple[str, ...]

    @classmethod
    def of(cls, app: App) -> Going:
        return cls(
            instances=app.instances.filter(released=False).count(),
            versions=versions_of_app(app).count(),
            releases=app.releases.count(),
            domains=tuple(str(one) for one in app.domains.order_by("name", "prefix")),
        )


def app_delete(*, app: App, by: User, confirm: str) -> App:
    """Begin to delete the app with all that belongs to it. Asked again, it only goes on.

    Raises Denied, AppConfirmNeeded (with what goes) unless ``confirm`` is the app's name.
    """
    require(by, Action.MANAGE, app)
    if confirm != app.slug:
        going = Going.of(app)
        raise AppConfirmNeeded(
            f"Deleting {app.slug} takes {going.instances} instances, {going.versions} versions, {going.releases} "
            f"releases and the names {', '.join(going.domains)} with it, for ever. "
            "Give the app's name as confirm if that is meant.",
            field="confirm",
            instances=going.instances,
            versions=going.versions,
            releases=going.releases,
            domains=going.domains,
        )
    app_close(app_id=app.pk, by=by.username)
    app.refresh_from_db()
    return app


@transaction.atomic
def app_close(*, app_id: int, by: str) -> bool:
    """Nothing of it is wanted any more, whatever was under way. False where that is so already."""
    app = App.objects.select_for_update(no_key=True).filter(pk=app_id).first()
    if app is None or app.deleting_at is not None:
        return False
    for rollout in app.rollouts.filter(status__in=Rollout.OPEN):
        rollout_end(
            rollout=rollout, status=Rollout.Status.SUPERSEDED, code="rollout.superseded", reason="The app is deleted."
        )
    App.objects.filter(pk=app.pk).update(deleting_at=now())
    app_unwant(app=app)
    ports_release(app=app)
    repository_close(name=app.slug)
    events.record("app.deleting", f"App {app.slug} is being deleted.", tenant_id=app.tenant_id, app_id=app.pk, actor=by)
    route_touch(app_id=app.pk)
    return True


def app_unwant(*, app: App) -> None:
    """Of an app that is being deleted: what a step of others that was under way may have asked for is taken back."""
    app.replica_sets.exclude(wanted=0, weight=0, retiring_until=None).update(wanted=0, weight=0, retiring_until=None)
    app.instances.filter(released=False).exclude(rebuild_as=None).update(rebuild_as=None)
    for instance in app.instances.filter(released=False, status__in=Instance.LIVE).select_related("app"):
        instance_drain(instance=instance)


def app_rows_fewer(*, app: App) -> bool:
    """Delete rows of instances that are over, some at a time. True once none is left."""
    over = app.instances.filter(released=True).order_by("pk").values_list("pk", flat=True)
    while batch := list(over[:ROWS_AT_ONCE]):
        app.instances.filter(pk__lte=batch[-1], released=True).delete()
    return not app.instances.exists()


@transaction.atomic
def app_erase(*, app_id: int) -> bool:
    """The last step: its rows, once nothing runs, is routed or stored for it. The name is free again.

    False where it is gone, is not being deleted, or holds something still.
    """
    app = App.objects.select_for_update().filter(pk=app_id, deleting_at__isnull=False).first()
    if app is None or app.instances.exists():
        return False
    grants_end(app)
    names_released(app=app)
    app.rollouts.all().delete()
    app.releases.all().delete()
    app.delete()
    repository_erase(name=app.slug)
    events.record("app.deleted", f"App {app.slug} was deleted.", tenant_id=app.tenant_id, app_id=app_id)
    jobs.enqueue(jobs.RECONCILE_TENANT, app.tenant_id)
    return True


def delete_waits(*, subject: App | Tenant, waits_for: str) -> None:
    """Tell by an event what a deletion waits for, each time that it has waited for DELETE_DEADLINE_S more."""
    if isinstance(subject, App):
        code, app_id, tenant_id = "app.delete_waits", subject.pk, subject.tenant_id
        told = Event.objects.filter(app_id=app_id, code=code)
    else:
        code, app_id, tenant_id = "tenant.delete_waits", None, subject.pk
        told = Event.objects.filter(tenant_id=tenant_id, code=code)
    since = told.order_by("-pk").values_list("at", flat=True).first() or subject.deleting_at
    if since is not None and now() - since >= timedelta(seconds=settings.DELETE_DEADLINE_S):
        events.record(
            code,
            f"Deleting {subject.slug} takes long: it waits for {waits_for}. The platform keeps trying.",
            level="warning",
            tenant_id=tenant_id,
            app_id=app_id,
            waits_for=waits_for,
        )


# Tenants ------------------------------------------------------------------------------------------------------


def tenant_delete(*, tenant: Tenant, by: User, confirm: str, with_apps: bool = False) -> Tenant:
    """Begin to delete the tenant; its members' accounts stay. For its owners, and for operators who may delete tenants.

    Raises Denied, TenantConfirmNeeded (with what goes) unless ``confirm`` is its name, TenantHasHosts (with their
    number), and TenantHasApps (with the list) unless ``with_apps``: then they all are deleted first.
    """
    if not operates(by, DELETE_TENANTS):
        require_owner(by, tenant)
    slugs = list(apps_of_tenant(tenant.pk).values_list("slug", flat=True))
    if confirm != tenant.slug:
        members = tenant.memberships.count()
        raise TenantConfirmNeeded(
            f"Deleting {tenant.slug} takes {len(slugs)} apps and {members} memberships with it, for ever. "
            "Give the tenant's name as confirm if that is meant.",
            field="confirm",
            apps=slugs,
            members=members,
        )
    _tenant_begin(tenant, by, with_apps)
    # Each on its own: a deploy holds its app's row while it asks for the quota's, which the above held. Those that
    # are not reached here are reconcile's.
    tenant_apps_close(tenant_id=tenant.pk, by=by.username)
    tenant.refresh_from_db()
    return tenant


@transaction.atomic
def _tenant_begin(tenant: Tenant, by: User, with_apps: bool) -> None:
    if not tenant_close(tenant=tenant, by=by.username):
        return
    hosts = dedicated_hosts(tenant)
    if hosts:
        named = {"hosts": [host.name for host in hosts]} if operates(by, "hosts.view_host") else {}
        raise TenantHasHosts(
            f"{len(hosts)} hosts are dedicated to {tenant.slug}. Ask the platform's operators to give them away first.",
            count=len(hosts),
            **named,
        )
    slugs = list(apps_of_tenant(tenant.pk).values_list("slug", flat=True))
    if slugs and not with_apps:
        raise TenantHasApps(
            f"{tenant.slug} has {len(slugs)} apps. Delete them first, or ask for all of it with with_apps.", apps=slugs
        )


def tenant_apps_close(*, tenant_id: int, by: str = "") -> None:
    for pk in apps_of_tenant(tenant_id).filter(deleting_at=None).values_list("pk", flat=True):
        app_close(app_id=pk, by=by)


def dedicated_hosts(tenant: Tenant) -> list[Host]:
    return list(
        Host.objects.filter(dedicated_to=tenant).exclude(status=Host.Status.REMOVED).only("name").order_by("name")
    )


def tenant_end(*, tenant_id: int) -> bool:
    """The last step, once its apps are gone; removed hosts forget that they were its own. False where it was done."""
    with transaction.atomic():
        Host.objects.filter(dedicated_to=tenant_id, status=Host.Status.REMOVED).update(dedicated_to=None)
        return tenant_erase(tenant_id=tenant_id)
