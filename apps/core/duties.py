"""Periodic work of the whole platform: by one worker at a time, and not again so soon, however many messages came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db.models import Q

from apps.core.clock import now
from apps.core.leases import held
from apps.core.models import Duty


@contextmanager
def due(name: str, *, every_s: float) -> Iterator[bool]:
    """Yields whether the block should do the work now: nobody is at it, and nobody began it within ``every_s``."""
    Duty.objects.get_or_create(name=name)
    with held(Duty, name) as mine:
        began = now()
        rested = Q(done_at=None) | Q(done_at__lte=began - timedelta(seconds=every_s))
        yield mine and bool(Duty.objects.filter(rested, pk=name).update(done_at=began))


def done(name: str, *, at: datetime | None = None) -> datetime | None:
    """When the duty was done last; with ``at``, note that it was then. For one that goes on for a while."""
    if at is not None:
        Duty.objects.filter(pk=name).update(done_at=at)
        return at
    return Duty.objects.values_list("done_at", flat=True).filter(pk=name).first()
