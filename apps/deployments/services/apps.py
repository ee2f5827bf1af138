"""Creating apps, and what holds for all changes to one."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet

from apps.core import compiled, events, jobs
from apps.core.clock import now
from apps.core.errors import Conflict, Denied
from apps.deployments.models import App, Domain
from apps.hosts.selectors import default_cluster
from apps.registry.base_images import PREFIX
from apps.registry.services.versions import repository_create
from apps.tenants.models import Quota, Tenant, User
from apps.tenants.permissions import may_create_apps
from apps.tenants.services.deleting import not_deleting
from apps.tenants.services.tenants import QuotaExceeded, SlugInvalid, SlugTaken, check_slug

#: Names that the platform's own addresses use, or that would look like it.
RESERVED = frozenset(
    {
        *(
            "admin",
            "api",
            "app",
            "apps",
            "auth",
            "berth",
            "caas",
            "console",
            "dashboard",
            "docs",
            "gateway",
            "git",
        ),
        *("health", "host", "hosts", "internal", "localhost", "login", "mail", "metrics", "mx", "ns", "platform"),
        *("portal", "registry", "root", "router", "security", "smtp", "static", "status", "support", "system"),
        *("tenant", "tenants", "test", "www", "zookeeper"),
        # Looked up by clients of their own accord.
        *("autoconfig", "autodiscover", "isatap", "wpad"),
    }
)


class AppDeleting(Conflict):
    code = "apps.deleting"


def not_going(app: App) -> App:
    """The app, of which the caller holds the lock, unless it is being deleted: then it may only be looked at.

    Raises AppDeleting.
    """
    if app.deleting_at is not None:
        raise AppDeleting(f"{app.slug} is being deleted: nothing of it can be changed any more.")
    return app


def _of_the_platform(name: str) -> bool:
    """Whether the host name is the portal's or the registry's own."""
    own = {urlsplit(url).hostname for url in (settings.PORTAL_URL, settings.REGISTRY_URL)}
    own |= {urlsplit(f"//{place}").hostname for place in (settings.REGISTRY_PUBLIC, settings.REGISTRY_FOR_HOSTS)}
    return name in own


def app_create(*, tenant: Tenant, slug: str, by: User, protocol: str = App.Protocol.HTTP) -> App:
    """An app with its repository and its platform address. ``protocol`` is one of App.Protocol.

    Raises Denied, SlugInvalid, SlugTaken (whoever holds the name), QuotaExceeded, TenantDeleting.
    """
    if not may_create_apps(by, tenant):
        raise Denied("Viewers can't create apps. Ask an owner or admin of the tenant for another role.")
    check_slug(slug)
    if slug in RESERVED or slug.startswith(PREFIX) or _of_the_platform(f"{slug}.{settings.PLATFORM_DOMAIN}"):
        raise SlugInvalid(f"{slug!r} is reserved for the platform. Pick another name.", slug=slug)
    cluster = default_cluster()
    with transaction.atomic():
        # The quota row's lock makes the count exact while others create too.
        quota = Quota.objects.select_for_update().select_related("tenant").get(tenant=tenant)
        not_deleting(quota.tenant)
        if App.objects.filter(tenant=tenant).count() >= quota.apps:
            raise QuotaExceeded(f"The tenant may have {quota.apps} apps and has them. Ask an admin for more.")
        try:
            with transaction.atomic():
                app = App.objects.create(tenant=tenant, cluster=cluster, slug=slug, created_by=by, protocol=protocol)
                repository_create(tenant=tenant, name=slug)
                Domain.objects.create(app=app, name=f"{slug}.{settings.PLATFORM_DOMAIN}", is_platform=True)
        except IntegrityError:
            raise SlugTaken(f"The name {slug!r} is taken. App names are unique in the platform.") from None
        events.record("app.created", f"App {slug} was created.", tenant_id=tenant.pk, app_id=app.pk, actor=by.username)
        route_touch(app_id=app.pk)
    return app


def app_locked(app_id: int) -> App:
    """The app's row, locked: whoever changes several rows of an app takes it first, so no two wait in a ring.

    Without its key: a placement that inserts an instance refers to the row while it holds the quota that the holder
    of this lock may be about to ask for.
    """
    return App.objects.select_for_update(no_key=True).get(pk=app_id)


def app_taken(*, app_id: int) -> None:
    """The same for who needs no more than the lock: before each move of an instance that changes what is routed."""
    compiled.select(_taken, {"pk": app_id})


def _taken(*, pk: int) -> QuerySet[App, tuple[int]]:
    return App.objects.filter(pk=pk).order_by().select_for_update(no_key=True).values_list("pk")


def route_touch(*, app_id: int) -> None:
    """What should be routed has changed: part of the transaction that changes it.

    A pass that is at the app needs no nudge: it looks for such changes after it gave the lease back, and it can't give
    it back between this and the commit, since that is a change of the same row.
    """
    table, route, key, lease = map(connection.ops.quote_name, (App._meta.db_table, "route_wanted", "id", "lease_until"))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {route} = {route} + 1 WHERE {key} = %s RETURNING {lease} > %s",  # noqa: S608 - ours
            [app_id, connection.ops.adapt_datetimefield_value(now())],
        )
        found = cursor.fetchone()
    if found is not None and not found[0]:
        jobs.enqueue(jobs.RECONCILE_APP, app_id)
