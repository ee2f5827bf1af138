"""Deploying straight from another registry: the image is copied first, then deployed from our own, by digest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.deployments.models import App
from apps.deployments.services.images import platforms_there
from apps.deployments.services.placement import CONTENDED_S, PlacementContended
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.registry.models import Import, Repository, Version
from apps.registry.services.imports import import_begin
from apps.tenants.models import User
from apps.tenants.permissions import Action, require


def app_import(
    *, app: App, source: str, tag: str, by: User, deploy: bool = False, deploy_with: Mapping[str, Any] | None = None
) -> Import:
    """Copy an image for the app, for the platforms of its hosts; with ``deploy`` a rollout to it follows by itself.

    ``deploy_with`` are fields of ReleaseSettings. Raises what ``import_begin`` does.
    """
    if deploy:
        require(by, Action.DEPLOY, app)
    repository = Repository.objects.get(name=app.slug)
    platforms = platforms_there(app)
    return import_begin(
        repository=repository,
        source=source,
        tag=tag,
        by=by,
        platforms=platforms,
        deploy=deploy,
        deploy_with=deploy_with,
    )


def imported_deploy(limit: int) -> int:
    """Start the rollouts that finished imports were to be followed by. Returns how many were started."""
    waiting = Import.objects.filter(status=Import.Status.DONE, deploy=True, deployed_at=None).order_by("status_since")
    return sum(_deployed(pk) for pk in waiting.values_list("pk", flat=True)[:limit])


def _deployed(import_id: int) -> bool:
    try:
        return _deploy(import_id)
    except PlacementContended:
        return False


@transaction.atomic
def _deploy(import_id: int) -> bool:
    """Once, whatever comes of it: a refusal leaves its event (rollout_start), and the note that it was tried."""
    if not Import.objects.filter(pk=import_id, deployed_at=None).update(deployed_at=now()):
        return False
    one = Import.objects.select_related("repository", "by").get(pk=import_id)
    # It may hold passwords, which have no business here any more.
    Import.objects.filter(pk=import_id).update(deploy_with={})
    app = App.objects.filter(slug=one.repository.name, deleting_at=None).first()
    # Pushed anew since, the tag names something that nobody asked to have deployed here.
    same = Version.objects.filter(repository=one.repository, tag=one.tag, digest=one.digest, is_current=True)
    if app is None or one.by is None or not same.exists():
        return False
    try:
        rollout_start(app=app, version=one.tag, by=one.by, settings_=ReleaseSettings(**one.deploy_with))
    except BerthError as error:
        if isinstance(error, PlacementContended) and now() - one.status_since < timedelta(seconds=CONTENDED_S):
            # Nothing of this stays, and the sweep comes again.
            raise
        return False
    return True
