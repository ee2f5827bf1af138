"""Periodic work of the whole platform: by one worker at a time, and not again so soon, however many messages came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from apps.core.clock import now
from apps.core.leases import held
from apps.core.models import Duty

#: The duty by which it shows whether the platform is there at all: done every two seconds, by any worker.
SWEEP = "sweep"
#: When it was not done for longer, workers, broker or database were away. Seconds.
AWAY_S = 10.0


@contextmanager
def due(name: str, *, every_s: float, back: Callable[[timedelta], None] | None = None) -> Iterator[bool]:
    """Yields whether the block should do the work now: nobody is at it, and nobody began it within ``every_s``.

    ``back`` is called first where it was not done for longer than AWAY_S, with how long; once for each such time, since
    what it writes and the note that the duty was begun are one transaction.
    """
    Duty.objects.get_or_create(name=name)
    with held(Duty, name) as mine:
        yield mine and _begun(name, every_s, back)


@transaction.atomic
def _begun(name: str, every_s: float, back: Callable[[timedelta], None] | None) -> bool:
    began = now()
    before = Duty.objects.select_for_update().values_list("done_at", flat=True).get(pk=name)
    rested = Q(done_at=None) | Q(done_at__lte=began - timedelta(seconds=every_s))
    if not Duty.objects.filter(rested, pk=name).update(done_at=began):
        return False
    if back is not None and before is not None and began - before > timedelta(seconds=AWAY_S):
        back(began - before)
    return True


def away() -> bool:
    """Whether the platform was away and has not made up for it yet: until then no deadline means anything."""
    swept = Duty.objects.values_list("done_at", flat=True).filter(pk=SWEEP).first()
    return swept is not None and now() - swept > timedelta(seconds=AWAY_S)


def done(name: str, *, at: datetime | None = None) -> datetime | None:
    """When the duty was done last; with ``at``, note that it was then. For one that goes on for a while."""
    if at is not None:
        Duty.objects.filter(pk=name).update(done_at=at)
        return at
    return Duty.objects.values_list("done_at", flat=True).filter(pk=name).first()
