"""Versions as apps use them: which are in use, and deleting those that are not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from apps.core.errors import Conflict
from apps.deployments.models import App, Instance, Release, Rollout
from apps.deployments.services.apps import app_locked, not_going
from apps.registry.models import Version
from apps.registry.services.deleting import version_remove
from apps.tenants.models import User
from apps.tenants.permissions import Action, require


class VersionInUse(Conflict):
    """``users`` in the extra says by what: see ``Use``."""

    code = "versions.in_use"


@dataclass(frozen=True, slots=True)
class Use:
    """A release that needs a version, and why. ``instances`` are those that are not over yet."""

    app: str
    release: int
    instances: int
    #: Of: "instances", "rollout" (one that is open), "traffic" (it has a share), "wanted".
    reasons: tuple[str, ...]

    def words(self) -> str:
        parts = {
            "instances": f"{self.instances} instances",
            "rollout": "a rollout",
            "traffic": "a share of the traffic",
            "wanted": "instances to come",
        }
        return f"{self.app} release {self.release} ({', '.join(parts[one] for one in self.reasons)})"


def uses_of(version_ids: Collection[int]) -> dict[int, list[Use]]:
    """Version -> the releases that need it now: that run, serve, are kept for a switch back, or are on their way in.

    Of one app this holds for as long as the caller holds the app's row: whoever starts or moves something takes it.
    """
    open_ = Q(status__in=Rollout.OPEN)
    coming = Rollout.objects.filter(open_).exclude(target=None).values("target_id")
    going_back_to = Rollout.objects.filter(open_).exclude(source=None).values("source_id")
    held = Instance.objects.filter(released=False).values("replica_set_id")
    releases = Release.objects.filter(version_id__in=version_ids).filter(
        Q(replica_set__wanted__gt=0)
        | Q(replica_set__weight__gt=0)
        | Q(replica_set__retiring_until__isnull=False)
        | Q(replica_set__in=coming)
        | Q(replica_set__in=going_back_to)
        | Q(replica_set__in=held)
    )
    found: dict[int, list[Use]] = {pk: [] for pk in version_ids}
    for release in releases.select_related("app", "replica_set").order_by("app__slug", "number"):
        found[release.version_id].append(_use(release))
    return found


def _use(release: Release) -> Use:
    its = release.replica_set
    instances = its.instances.filter(released=False).count()
    rollouts = Rollout.objects.filter(Q(target=its) | Q(source=its), status__in=Rollout.OPEN)
    reasons = {
        "instances": bool(instances),
        "rollout": rollouts.exists(),
        "traffic": its.weight > 0 or its.retiring_until is not None,
        "wanted": its.wanted > 0 and not instances,
    }
    return Use(release.app.slug, release.number, instances, tuple(name for name, holds in reasons.items() if holds))


@transaction.atomic
def version_delete(*, app: App, version: Version, by: User) -> Version:
    """Take a version out of the registry, with all that nothing else needs. Asked again, it only goes on.

    Raises Denied, AppDeleting, VersionInUse (with its users).
    """
    require(by, Action.MANAGE, app)
    version_drop(app=app, version=version, by=by.username)
    version.refresh_from_db()
    return version


@transaction.atomic
def version_drop(*, app: App, version: Version, by: str = "", pushed_at: datetime | None = None) -> bool:
    """The same for the platform's own clean-up, which asks nobody. ``pushed_at``: only if nobody pushed it since. False
    where somebody did, or it is being deleted already.

    Raises AppDeleting, VersionInUse (with its users).
    """
    not_going(app_locked(app.pk))
    if users := uses_of([version.pk])[version.pk]:
        raise VersionInUse(
            f"{app.slug}:{version.tag} is in use: {'; '.join(one.words() for one in users)}. "
            "Deploy another version, or undeploy, and wait until that is through.",
            users=[
                {"app": one.app, "release": one.release, "instances": one.instances, "reasons": list(one.reasons)}
                for one in users
            ],
        )
    return version_remove(version=version, by=by, pushed_at=pushed_at)
