"""Scale: as many instances of what serves as somebody wants, none included."""

from __future__ import annotations

from django.db import transaction

from apps.core import events
from apps.deployments.models import App, ReplicaSet, Rollout
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.deployments.services.placement import instances_place, placed_announce
from apps.deployments.services.releases import BOUNDS, ReleaseInvalid
from apps.deployments.services.rollouts import NotDeployed, RolloutInProgress
from apps.deployments.services.spread import GlobalHasNoCount
from apps.tenants.models import User
from apps.tenants.permissions import Action, require

MOST = BOUNDS["instances"][1]


@transaction.atomic
def app_scale(*, app: App, instances: int, by: User) -> App:
    """Want so many instances (0 to MOST) of the release that serves; what is more is placed before this returns.

    What is too many goes drained, the unready and the newest first. With 0 the gateway says so to whoever comes.
    Raises Denied, ReleaseInvalid, AppDeleting, NotDeployed, RolloutInProgress, GlobalHasNoCount, QuotaExceeded,
    NoHost, PlacementContended; then nothing has changed.
    """
    require(by, Action.DEPLOY, app)
    if not 0 <= instances <= MOST:
        raise ReleaseInvalid(f"instances must be between 0 and {MOST}.", field="instances")
    app = not_going(app_locked(app.pk))
    if app.rollouts.filter(status__in=Rollout.OPEN).exists():
        raise RolloutInProgress(f"{app.slug} has a rollout in progress. Wait for it, or cancel it.")
    serving = _serving(app)
    if serving is None:
        raise NotDeployed(f"{app.slug} runs no release that could be scaled. Deploy a version first.")
    if serving.release.is_global:
        raise GlobalHasNoCount("A global app runs once on every matching host: it can't be scaled.")
    before = serving.wanted
    if instances == before:
        return app
    ReplicaSet.objects.filter(pk=serving.pk).update(wanted=instances, retry_at=None)
    if instances > before:
        placed_announce(instances_place(replica_set=serving, count=instances - before))
    events.record(
        "app.scaled",
        f"Scaled from {before} to {instances} instances.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=by.username,
        before=before,
        after=instances,
    )
    route_touch(app_id=app.pk)
    return app


def _serving(app: App) -> ReplicaSet | None:
    """What has the traffic, if only as far as the database goes: one that was scaled to none has it still."""
    sets = app.replica_sets.select_related("release", "app__cluster").filter(weight__gt=0, retiring_until=None)
    return sets.order_by("-weight", "-pk").first()
