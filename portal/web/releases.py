"""An app's releases as pages show them. Env is loaded to be compared; of its values only settings are ever shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Max, QuerySet

from apps.deployments.models import App, Release, ReplicaSet, Rollout
from apps.deployments.services.diffing import release_diff
from portal.web.changes import brief

RELEASES_PER_PAGE = 20


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """``share`` is its part of the traffic in per cent; ``changes`` None for the first release."""

    release: Release
    changes: list[str] | None
    before: int | None
    share: int
    asleep: bool
    coming: bool
    rollout: Rollout | None


def releases_to_list(app: App) -> QuerySet[Release]:
    return app.releases.select_related("version").order_by("-number")


def release_rows(app: App, releases: Sequence[Release]) -> list[ReleaseRow]:
    """Of one page, newest first; each is compared with the one before it, in a fixed number of queries."""
    if not releases:
        return []
    before = releases_to_list(app).filter(number__lt=releases[-1].number).first()
    chain = [*releases, before]
    sets = {one.release_id: one for one in ReplicaSet.objects.filter(release__in=[one.pk for one in releases])}
    latest = (
        Rollout.objects.filter(target__in=sets.values()).order_by().values("target").annotate(last=Max("pk"))
    ).values("last")
    rollouts = {one.target_id: one for one in Rollout.objects.filter(pk__in=latest)}
    return [_row(one, older, sets.get(one.pk), rollouts) for one, older in zip(releases, chain[1:], strict=True)]


def _row(
    release: Release, older: Release | None, replica_set: ReplicaSet | None, rollouts: dict[int | None, Rollout]
) -> ReleaseRow:
    rollout = rollouts.get(replica_set.pk) if replica_set else None
    return ReleaseRow(
        release=release,
        changes=brief(release_diff(old=older, new=release)) if older else None,
        before=older.number if older else None,
        share=replica_set.weight if replica_set else 0,
        asleep=bool(replica_set and replica_set.weight and not replica_set.wanted),
        coming=bool(rollout and rollout.status in Rollout.OPEN),
        rollout=rollout,
    )


def runs(release: Release) -> bool:
    """Whether any instance of it is wanted, now or by a rollout that is open."""
    sets = ReplicaSet.objects.filter(release=release)
    return sets.filter(wanted__gt=0).exists() or sets.filter(rollouts__status__in=Rollout.OPEN).exists()
