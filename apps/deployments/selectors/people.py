"""What a viewer may see of apps, and what the loop reads. Everything for people starts from apps_visible_to."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.db.models import Count, Q, QuerySet

from apps.core.errors import Missing
from apps.core.models import Event
from apps.deployments.models import App, FailureCapsule, Instance, Release, Rollout
from apps.registry.models import Version
from apps.registry.selectors import versions_of
from apps.tenants.permissions import Action, Viewer, scoped

#: Events that name an app's repository, and not the app.
OF_REPOSITORY = ("version.pushed", "version.deleting", "version.delete_waits", "version.deleted")


class AppMissing(Missing):
    code = "apps.not_found"


class RolloutMissing(Missing):
    code = "rollouts.not_found"


class InstanceMissing(Missing):
    code = "instances.not_found"


class CapsuleMissing(Missing):
    code = "instances.no_capsule"


def apps_visible_to(viewer: Viewer, action: Action = Action.VIEW) -> QuerySet[App]:
    return scoped(viewer, App.objects.select_related("tenant", "cluster", "deploy_on_push_by"), action)


def apps_with_counts(viewer: Viewer) -> QuerySet[App]:
    """For lists: each with how many instances are ready, live and wanted."""
    live = Q(instances__released=False, instances__status__in=Instance.LIVE)
    ready = Q(instances__status=Instance.Status.HEALTHY, instances__released=False)
    return (
        apps_visible_to(viewer)
        .annotate(
            instances_live=Count("instances", filter=live, distinct=True),
            instances_ready=Count("instances", filter=ready, distinct=True),
        )
        .order_by("slug")
    )


def app_visible_to(viewer: Viewer, slug: str) -> App:
    """Raises AppMissing, also for an app of others."""
    app = apps_visible_to(viewer).filter(slug=slug).first()
    if app is None:
        raise AppMissing(f"There is no app {slug[:60]!r} that you can see.")
    return app


def apps_of_tenant(tenant_id: int) -> QuerySet[App]:
    """For the platform itself: all that there are."""
    return App.objects.filter(tenant_id=tenant_id).order_by("slug")


def app_url(app: App) -> str:
    """Where the gateway serves the app. One of TCP is served at its ports, which do not stand in it."""
    if app.protocol == App.Protocol.TCP:
        return f"tcp://{app.slug}.{settings.PLATFORM_DOMAIN}"
    port = "" if settings.GATEWAY_URL_PORT == 80 else f":{settings.GATEWAY_URL_PORT}"
    return f"http://{app.slug}.{settings.PLATFORM_DOMAIN}{port}/"


def port_address(app: App, port: int) -> str:
    """``host:port`` for clients of an app of TCP. Any name that leads to the gateways does: the port decides."""
    return f"{app.slug}.{settings.PLATFORM_DOMAIN}:{port}"


def releases_of(app: App) -> QuerySet[Release]:
    return app.releases.select_related("version", "replica_set")


def rollouts_of(app: App) -> QuerySet[Rollout]:
    return app.rollouts.select_related("target__release__version")


def rollout_of(app: App, number: int) -> Rollout:
    rollout = rollouts_of(app).filter(number=number).first()
    if rollout is None:
        raise RolloutMissing(f"{app.slug} has no rollout {number}.")
    return rollout


def queue_position(rollout: Rollout) -> int | None:
    """How many open ones of the app are before it; None unless it waits."""
    if rollout.status != Rollout.Status.PENDING:
        return None
    before = Rollout.objects.filter(app_id=rollout.app_id, status__in=Rollout.OPEN, number__lt=rollout.number)
    return before.count()


def instances_of(app: App) -> QuerySet[Instance]:
    """All that it ever had, the newest first."""
    return app.instances.select_related("replica_set__release__version", "host")


def instance_of(app: App, uid: UUID) -> Instance:
    instance = instances_of(app).filter(uid=uid).first()
    if instance is None:
        raise InstanceMissing(f"{app.slug} has no instance {uid}.")
    return instance


def capsule_of(app: App, uid: UUID) -> FailureCapsule:
    """Raises InstanceMissing, CapsuleMissing."""
    capsule = FailureCapsule.objects.filter(instance=instance_of(app, uid)).first()
    if capsule is None:
        raise CapsuleMissing("It did not end badly, its end is still being looked at, or its capsule is kept no more.")
    return capsule


def versions_of_app(app: App) -> QuerySet[Version]:
    return versions_of(app.slug)


def is_event_of(app: App, event: Event) -> bool:
    """Whether ``events_of`` has the event."""
    told = event.code in OF_REPOSITORY and event.tenant_id == app.tenant_id
    return event.app_id == app.pk or (told and event.detail.get("repository") == app.slug)


def events_of(app: App) -> QuerySet[Event]:
    """Its own, and what befell its repository: the registry's side knows the name only."""
    told = Q(tenant_id=app.tenant_id, code__in=OF_REPOSITORY, detail__repository=app.slug)
    return Event.objects.filter(Q(app_id=app.pk) | told)
