"""How long events are kept: some days, and of one app so many.

In batches of BATCH rows, each its own statement, and along the indexes there are: rows are inserted in the order of
time, so the oldest are those with the lowest ids, and an app's are in the index of its page.
"""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Count

from apps.core.clock import now
from apps.core.models import Event

BATCH = 5000
#: In one go: a database that has kept everything for years is caught up with over hours, and nobody waits meanwhile.
BATCHES = 100


def events_prune(*, days: int, per_app: int) -> int:
    """Delete events that are older than ``days``, and all but the newest ``per_app`` of each app. Returns how many."""
    done, batches = _older(days)
    return done + _beyond(per_app, BATCHES - batches)


def _older(days: int) -> tuple[int, int]:
    """How many were deleted, in how many batches."""
    cut = now() - timedelta(days=days)
    done = batches = 0
    while batches < BATCHES:
        rows = list(Event.objects.order_by("pk").values_list("pk", "at")[:BATCH])
        old = [pk for pk, at in rows if at < cut]
        if not old:
            break
        done += Event.objects.filter(pk__lte=old[-1], at__lt=cut).delete()[0]
        batches += 1
        if len(old) < len(rows):
            break
    return done, batches


def _beyond(per_app: int, batches: int) -> int:
    many = Event.objects.exclude(app_id=None).order_by().values("app_id").annotate(n=Count("pk")).filter(n__gt=per_app)
    done = 0
    for app_id in list(many.values_list("app_id", flat=True)):
        rows = Event.objects.filter(app_id=app_id)
        last = rows.order_by("-pk").values_list("pk", flat=True)[per_app : per_app + 1].first()
        while last is not None and batches > 0:
            batch = list(rows.filter(pk__lte=last).order_by("pk").values_list("pk", flat=True)[:BATCH])
            if not batch:
                break
            done += rows.filter(pk__lte=batch[-1]).delete()[0]
            batches -= 1
    return done
