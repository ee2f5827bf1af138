"""An app's rules for which versions stay: set, tried, and applied once a day or when somebody asks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, QuerySet, Sum

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Conflict, Invalid
from apps.deployments.keeping import (
    REPLACED,
    Candidate,
    PatternInvalid,
    Rules,
    Verdict,
    judged,
    patterns_of,
)
from apps.deployments.models import App, Retention
from apps.deployments.services.apps import app_locked, not_going
from apps.deployments.services.versions import uses_of, version_drop
from apps.registry.models import Manifest, Part, Version
from apps.registry.selectors import repositories_unkept
from apps.registry.services.deleting import manifest_remove
from apps.registry.services.manifests import unnamed
from apps.registry.services.versions import repository_cleaned
from apps.tenants.models import User
from apps.tenants.permissions import Action, require

BOUNDS = {"keep_last": (1, 1000), "keep_days": (0, 3650), "rollback_releases": (1, 200)}
#: Of one app in one go; the rest is the next one's.
MOST = 500


class RetentionInvalid(Invalid):
    code = "retention.invalid"


@dataclass(frozen=True, slots=True)
class Preview:
    """``untagged``: manifests that no tag, index or release names. ``freed_bytes``: what the app's images then take
    less, as far as they are described; the registry's garbage collection gives it back.
    """

    rules: Rules
    verdicts: tuple[Verdict, ...]
    untagged: int
    freed_bytes: int

    @property
    def going(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.goes]


def rules_of(app: App) -> Rules:
    row = Retention.objects.filter(app=app).first()
    if row is None:
        return Rules()
    return Rules(row.is_on, row.keep_last, row.keep_days, patterns_of(row.keep_tags), row.rollback_releases)


def rules_with(
    rules: Rules,
    *,
    is_on: bool | None = None,
    keep_last: int | None = None,
    keep_days: int | None = None,
    keep_tags: str | None = None,
    rollback_releases: int | None = None,
) -> Rules:
    """The rules with what is given in place of theirs. Raises RetentionInvalid."""
    numbers = {"keep_last": keep_last, "keep_days": keep_days, "rollback_releases": rollback_releases}
    given = {name: value for name, value in numbers.items() if value is not None}
    for name, value in given.items():
        low, high = BOUNDS[name]
        if not low <= value <= high:
            raise RetentionInvalid(f"{name} must be from {low} to {high}.", field=name)
    try:
        patterns = rules.keep_tags if keep_tags is None else patterns_of(keep_tags)
    except PatternInvalid as error:
        raise RetentionInvalid(str(error), field="keep_tags") from None
    return replace(rules, is_on=rules.is_on if is_on is None else is_on, keep_tags=patterns, **given)


@transaction.atomic
def rules_set(*, app: App, rules: Rules, by: User) -> None:
    """Raises Denied, AppDeleting. ``rules`` come from ``rules_with``."""
    require(by, Action.MANAGE, app)
    not_going(app_locked(app.pk))
    values = {
        "is_on": rules.is_on,
        "keep_last": rules.keep_last,
        "keep_days": rules.keep_days,
        "keep_tags": " ".join(rules.keep_tags),
        "rollback_releases": rules.rollback_releases,
        "updated_by": by.username,
    }
    before = rules_of(app)
    Retention.objects.update_or_create(app=app, defaults=values)
    if before != rules:
        events.record(
            "retention.changed",
            f"Clean-up of {app.slug} is {'on' if rules.is_on else 'off'} now: the newest {rules.keep_last} stay.",
            tenant_id=app.tenant_id,
            app_id=app.pk,
            actor=by.username,
            is_on=rules.is_on,
            keep_last=rules.keep_last,
            keep_days=rules.keep_days,
            keep_tags=list(rules.keep_tags),
            rollback_releases=rules.rollback_releases,
        )


def preview(*, app: App, rules: Rules | None = None, at: datetime | None = None) -> Preview:
    """What would become of each version under these rules, or the app's own. Changes nothing."""
    at, rules = at or now(), rules or rules_of(app)
    verdicts = _judged(app, rules, at)
    going = [one.version for one in verdicts if one.goes]
    kept = {one.version.digest for one in verdicts if not one.goes}
    untagged = set(_untagged(app, at).values_list("digest", flat=True))
    return Preview(rules, tuple(verdicts), len(untagged), _freed(app, {one.digest for one in going} - kept | untagged))


def _judged(app: App, rules: Rules, at: datetime) -> list[Verdict]:
    versions = candidates_of(app)
    uses = uses_of([one.pk for one in versions])
    return judged(
        versions,
        rules,
        releases=_window(app, rules.rollback_releases),
        uses={pk: [one.words() for one in found] for pk, found in uses.items()},
        at=at,
    )


def candidates_of(app: App) -> list[Candidate]:
    """All versions that are not being deleted, also those whose tag names something else by now."""
    rows = Version.objects.filter(repository__name=app.slug).order_by("tag", "-pushed_at")
    found: list[Candidate] = []
    # Of the tag that is looked at: when it was pushed last, and the push after that of the row before.
    last = ""
    at: datetime | None = None
    after: datetime | None = None
    # Here and not by a query for each row: a tag may have been pushed a hundred thousand times.
    for pk, tag, digest, pushed_at, is_current, deleting_at, gone in rows.values_list(
        "pk", "tag", "digest", "pushed_at", "is_current", "deleting_at", "current_until"
    ):
        if tag != last:
            last, at, after = tag, None, None
        if at is not None and pushed_at < at:
            after = at
        at = pushed_at
        if deleting_at is None:
            # A tag that is gone, and not pushed anew, may be back soon: a registry whose disk is away says so of all.
            found.append(Candidate(pk, tag, digest, pushed_at, None if is_current else after or gone or pushed_at))
    return found


def _window(app: App, count: int) -> dict[int, list[int]]:
    """Version -> the newest releases that are made of it."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, version_id in app.releases.order_by("-number").values_list("number", "version_id")[:count]:
        found[version_id].append(number)
    return found


def _untagged(app: App, at: datetime) -> QuerySet[Manifest]:
    """Manifests that were pushed a day ago or longer and that no version and no index names."""
    old = Manifest.objects.filter(repository__name=app.slug, deleting_at=None, pushed_at__lte=at - REPLACED)
    return unnamed(old)


def _freed(app: App, digests: set[str]) -> int:
    """What these manifests name and no other of the repository does; and their own bytes."""
    here = Manifest.objects.filter(repository__name=app.slug, deleting_at=None).order_by()
    going = here.filter(digest__in=digests)
    inside = Part.objects.filter(manifest__in=going, kind=Part.Kind.MANIFEST).values_list("digest", flat=True)
    # What else names one of those is not looked for: it is an estimate.
    going = here.filter(digest__in={*digests, *inside})
    staying = Part.objects.filter(manifest__in=here.exclude(pk__in=going.values("pk")))
    parts = Part.objects.filter(manifest__in=going).exclude(kind=Part.Kind.MANIFEST)
    parts = parts.exclude(digest__in=staying.values("digest")).order_by()
    blobs = parts.values("digest").annotate(size=Max("size_bytes")).aggregate(total=Sum("size"))["total"]
    return int(blobs or 0) + int(going.aggregate(total=Sum("own_bytes"))["total"] or 0)


def clean_now(*, app: App, by: User) -> int:
    """Apply the app's rules at once. Returns how many versions are being deleted. Raises Denied, AppDeleting."""
    require(by, Action.MANAGE, app)
    not_going(app)
    return app_clean(app=app, by=by.username)


def app_clean(*, app: App, by: str = "", at: datetime | None = None) -> int:
    """Begin to delete what the app's rules do not keep, and what nothing names. Returns how many versions.

    Each in a transaction of its own, which looks again whether anything runs it. The platform does it once a day.
    """
    at = at or now()
    going = {one.version.pk: one.version.pushed_at for one in _judged(app, rules_of(app), at) if one.goes}
    some = Version.objects.filter(pk__in=list(going)[:MOST])
    dropped = [one.tag for one in some if _dropped(app, one, by, going[one.pk])]
    manifests = sum(manifest_remove(manifest=one) for one in _untagged(app, at)[:MOST])
    if not (len(going) > MOST and dropped) and manifests < MOST:
        # Otherwise it goes on with the next sweep, and not tomorrow.
        repository_cleaned(name=app.slug)
    if dropped or manifests:
        events.record(
            "retention.applied",
            f"Cleaned up {app.slug}: {len(dropped)} versions and {manifests} untagged images go.",
            tenant_id=app.tenant_id,
            app_id=app.pk,
            actor=by,
            versions=len(dropped),
            tags=dropped[:50],
            manifests=manifests,
        )
    return len(dropped)


def _dropped(app: App, version: Version, by: str, pushed_at: datetime) -> bool:
    try:
        return version_drop(app=app, version=version, by=by, pushed_at=pushed_at)
    except Conflict:
        # Somebody runs it by now, or the app is being deleted.
        return False


def needed_digests(digests: Sequence[str]) -> set[str]:
    """Those of them that some app may need on a host: of a release that can be gone back to, or in use."""
    versions = dict(Version.objects.filter(digest__in=digests).values_list("pk", "digest"))
    used = {versions[pk] for pk, found in uses_of(list(versions)).items() if found}
    left = {pk: digest for pk, digest in versions.items() if digest not in used}
    apps = App.objects.filter(releases__version__in=left).distinct()
    for app in apps.select_related("retention"):
        its = getattr(app, "retention", None)
        window = _window(app, its.rollback_releases if its else Rules().rollback_releases)
        used |= {left[pk] for pk in window.keys() & left.keys()}
    return used


def apps_clean(*, limit: int, budget_s: float) -> int:
    """Apply the rules of apps of which that was not done for a day, for at most so long. Returns of how many."""
    deadline = time.monotonic() + budget_s
    names = repositories_unkept(now() - timedelta(days=1), limit)
    apps = {app.slug: app for app in App.objects.filter(slug__in=names, deleting_at=None)}
    done = 0
    for name in names:
        if time.monotonic() >= deadline:
            break
        if name in apps:
            app_clean(app=apps[name])
        else:
            # Without an app, or about to be: the others come first.
            repository_cleaned(name=name)
        done += 1
    return done
