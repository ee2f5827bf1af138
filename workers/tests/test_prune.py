"""The duty that prunes events."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings as live

from apps.core.clock import now
from apps.core.models import Duty, Event
from workers.tasks.core import prune_events


def _events(count, *, days):
    made = Event.objects.bulk_create(Event(code="x", message="") for _ in range(count))
    Event.objects.filter(pk__in=[one.pk for one in made]).update(at=now() - timedelta(days=days))


def test_the_duty_goes_by_the_settings_and_once_an_hour(db, settings):
    assert (live.EVENT_DAYS, live.EVENTS_PER_APP) == (90, 10_000)
    settings.EVENT_DAYS = 30
    _events(3, days=31)
    prune_events()
    assert not Event.objects.exists()
    _events(3, days=31)
    prune_events()
    assert Event.objects.count() == 3, "not again so soon"
    Duty.objects.filter(pk="events").update(done_at=now() - timedelta(hours=1))
    prune_events()
    assert not Event.objects.exists()
