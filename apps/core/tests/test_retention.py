"""Events are kept for some days, and of one app so many."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.core import retention
from apps.core.clock import now
from apps.core.models import Event
from apps.core.retention import events_prune


def _events(count, *, days=0, app_id=None):
    made = Event.objects.bulk_create(Event(code="x", message="", app_id=app_id) for _ in range(count))
    Event.objects.filter(pk__in=[one.pk for one in made]).update(at=now() - timedelta(days=days))
    return [one.pk for one in made]


def _left():
    return sorted(Event.objects.values_list("pk", flat=True))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 5)


def test_old_events_go_whosever_they_are_and_young_ones_stay(db, small):
    _events(12, days=91)
    _events(3, days=91, app_id=7)
    young = _events(4, days=89)
    assert events_prune(days=90, per_app=100) == 15
    assert _left() == young
    assert events_prune(days=90, per_app=100) == 0


def test_of_one_app_the_newest_stay_and_others_lose_nothing(db, small):
    loud = _events(23, app_id=1)
    quiet, nobodys = _events(10, app_id=2), _events(30)
    assert events_prune(days=90, per_app=10) == 13
    assert _left() == sorted([*loud[-10:], *quiet, *nobodys])


def test_one_go_has_an_end_and_the_next_carries_on(db, small, monkeypatch):
    monkeypatch.setattr(retention, "BATCHES", 2)
    _events(12, days=91)
    _events(12, app_id=1)
    assert events_prune(days=90, per_app=1) == 10
    assert events_prune(days=90, per_app=1) == 2 + 5
    assert events_prune(days=90, per_app=1) == 6
    assert len(_left()) == 1


def test_where_nothing_is_old_the_table_is_not_read_through(db, small):
    _events(50)
    with CaptureQueriesContext(
        connection,
    ) as captured:
        events_prune(days=90, per_app=100)
    assert len(captured) == 2
    assert "LIMIT 5" in captured[0]["sql"]
