"""What beat sends, and that somebody does it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.models import Duty
from workers.celery import app
from workers.schedule import SCHEDULE


def test_each_task_that_beat_sends_is_one_that_workers_know():
    app.loader.import_default_modules()
    assert {one["task"] for one in SCHEDULE.values()} <= set(app.tasks)


@pytest.mark.django_db
def test_old_capsules_are_looked_for_once_a_day_however_often_it_is_asked(monkeypatch):
    from workers.tasks import deployments

    done = []
    monkeypatch.setattr(deployments, "capsules_expire", lambda: done.append(1))
    deployments.capsules()
    deployments.capsules()
    assert len(done) == 1
    duty = Duty.objects.get(name="capsules")
    assert duty.done_at is not None
    Duty.objects.update(done_at=duty.done_at - timedelta(days=1, seconds=1))
    deployments.capsules()
    assert len(done) == 2
