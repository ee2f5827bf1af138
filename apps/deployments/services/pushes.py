"""Deploy on push: a tag that matches an app's pattern, when pushed, becomes a release and a rollout.

Off unless somebody who may deploy switches it on; it deploys in that one's name, as long as that one may. The state
is the database's: ``App.pushes_seen_at`` says until when pushes are dealt with, ``Version.current_since`` when a tag
began to name an image. So nothing is deployed twice, a lost nudge is found by the sweep, and what is noticed late,
after something newer was dealt with, is not deployed backwards.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.errors import BerthError, Denied, Invalid
from apps.deployments.models import App, Rollout
from apps.deployments.services.apps import app_locked, not_going
from apps.deployments.services.placement import CONTENDED_S, PlacementContended
from apps.deployments.services.releases import base_of
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.tag_patterns import is_pattern, matches
from apps.registry.models import Manifest, Version
from apps.tenants.models import User
from apps.tenants.permissions import Action, require

#: So long what was pushed may take to be read from the registry; then it is deployed as what it may be. Seconds.
READ_S = 60
#: Found by a listing, it may have been pushed before something that we were told of: its own notification, which says
#: when, may be on its way still. Seconds.
LATE_S = 15
#: So long after another push we may be told of one that was before it. Seconds.
TOLD_S = 60
ACTOR = "deploy on push"


class PatternInvalid(Invalid):
    code = "apps.pattern_invalid"


@transaction.atomic
def deploy_on_push_set(*, app: App, pattern: str, by: User) -> App:
    """Deploy tags of this pattern from now on when they are pushed; none with an empty one.

    What was pushed before is left as it is. Raises Denied, AppDeleting, PatternInvalid.
    """
    require(by, Action.DEPLOY, app)
    if pattern and not is_pattern(pattern):
        raise PatternInvalid(
            "A pattern is made of letters, digits and . _ - as tags are, with * for any characters and ? for one; "
            "at most 128, such as v* or main-*.",
            field="deploy_on_push",
        )
    app = not_going(app_locked(app.pk))
    if (app.deploy_on_push, app.deploy_on_push_by_id) == (pattern, by.pk if pattern else None):
        return app
    app.deploy_on_push, app.deploy_on_push_by, app.pushes_seen_at = pattern, by if pattern else None, now()
    app.save(update_fields=["deploy_on_push", "deploy_on_push_by", "pushes_seen_at"])
    words = f"Tags that match {pattern} are deployed when they are pushed." if pattern else "Pushes deploy nothing."
    _told(app, "push.switched", words, actor=by.username, pattern=pattern)
    return app


def apps_pushed_to() -> QuerySet[App]:
    """Those that deploy on push and have something that was pushed and not dealt with."""
    pushed = Version.objects.filter(
        repository__name=OuterRef("slug"), is_current=True, current_since__gt=OuterRef("pushes_seen_at")
    )
    return App.objects.exclude(deploy_on_push="").filter(Exists(pushed), deleting_at=None)


def pushed_deploy(*, slug: str) -> Rollout | None:
    """Deal with what was pushed: the newest that matches is deployed, once. None where nothing came of it.

    Whatever speaks against it becomes an event, and it is not tried again; but for a while where it was only that
    others placed at the same time.
    """
    try:
        return _dealt_with(slug)
    except PlacementContended:
        return None


@transaction.atomic
def _dealt_with(slug: str) -> Rollout | None:
    found = apps_pushed_to().filter(slug=slug).values_list("pk", flat=True).first()
    if found is None:
        return None
    app = app_locked(found)
    versions = list(
        Version.objects.filter(repository__name=slug, is_current=True, current_since__gt=app.pushes_seen_at)
    )
    if not versions or not app.deploy_on_push or app.deleting_at is not None:
        return None
    matching = [one for one in versions if matches(app.deploy_on_push, one.tag)]
    newest = max(matching, key=_order, default=None)
    if newest is not None and _too_early(newest):
        return None
    rollout = None if newest is None else _deploy(app, newest)
    # What does not match is no reason to pass over a push of before it that we are told of a little later.
    others = min(max(_since(one) for one in versions), now() - timedelta(seconds=TOLD_S))
    seen = max(app.pushes_seen_at or others, others, *(_since(one) for one in matching))
    App.objects.filter(pk=app.pk).update(pushes_seen_at=seen)
    return rollout


def _since(version: Version) -> datetime:
    return version.current_since or version.pushed_at


def _order(version: Version) -> tuple[datetime, list[Any]]:
    """The newest last; of those that one listing found, which are of one time, the one with the higher number."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version.tag)
    return _since(version), [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _too_early(version: Version) -> bool:
    """Whether it is better waited for a moment; the sweep comes again."""
    age = now() - _since(version)
    if not version.pushed_by and age < timedelta(seconds=LATE_S):
        return True
    unread = Manifest.objects.filter(
        repository_id=version.repository_id, digest=version.digest, kind=Manifest.Kind.UNKNOWN
    )
    return age < timedelta(seconds=READ_S) and unread.exists()


def _deploy(app: App, version: Version) -> Rollout | None:
    base = base_of(app)
    by = app.deploy_on_push_by
    actor = f"{ACTOR} (pushed by {version.pushed_by})"[:150] if version.pushed_by else ACTOR
    detail = {"tag": version.tag, "digest": version.digest}
    running = app.replica_sets.filter(wanted__gt=0).exists()
    if base is None or not (running or app.rollouts.filter(status__in=Rollout.OPEN, target__isnull=False).exists()):
        reason = "the app runs nothing that could be replaced. Deploy it once by hand."
        words = f"{version.tag} was pushed and is not deployed: {reason}"
        _told(app, "push.refused", words, actor=actor, level="warning", cause="apps.not_deployed", **detail)
        return None
    if base.version_id == version.pk:
        return None
    try:
        if by is None:
            raise Denied("Whoever switched it on has no account any more.")
        rollout = rollout_start(app=app, version=version.tag, by=by, actor=actor, supersede_waiting=True)
    except Denied:
        App.objects.filter(pk=app.pk).update(deploy_on_push="", deploy_on_push_by=None)
        words = (
            f"{version.tag} was pushed and is not deployed: whoever switched on deploying on push may not deploy "
            "any more. It is off until somebody who may switches it on."
        )
        _told(app, "push.stopped", words, actor=actor, level="warning", cause=Denied.code, **detail)
    except BerthError as error:
        if isinstance(error, PlacementContended) and now() - _since(version) < timedelta(seconds=CONTENDED_S):
            # Nothing of this stays, and the sweep comes again.
            raise
        words = f"{version.tag} was pushed and is not deployed: {error.detail}"
        _told(app, "push.refused", words, actor=actor, level="warning", cause=error.code, **detail)
    else:
        words = f"{version.tag} was pushed and is deployed: rollout {rollout.number}."
        _told(app, "push.deployed", words, actor=actor, rollout=rollout.number, **detail)
        return rollout
    return None


def _told(app: App, code: str, words: str, *, actor: str, level: str = "info", **detail: Any) -> None:
    events.record(code, words, level=level, tenant_id=app.tenant_id, app_id=app.pk, actor=actor, **detail)


def pushes_find(limit: int) -> None:
    """What no nudge told of."""
    for slug in apps_pushed_to().order_by("?").values_list("slug", flat=True)[:limit]:
        jobs.enqueue(jobs.DEPLOY_PUSHED, slug)
