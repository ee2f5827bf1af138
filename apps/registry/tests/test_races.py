"""Two at the same rows, each with a connection of its own: nobody waits in a ring, and nobody's row is gone."""

from __future__ import annotations

import contextlib
import threading

import pytest
from django.db import connection

from apps.core import throttle
from apps.core.clock import now
from apps.registry.models import Manifest, Repository, Version
from apps.registry.services import deleting, versions
from apps.registry.services.deleting import version_remove
from apps.registry.services.versions import repository_listed

pytestmark = pytest.mark.django_db(transaction=True)
#: So long two wait for each other at their meeting point, where the first keeps the second away from it. Seconds.
MEET_S = 1.0


def _together(*works):
    errors = []

    def run(work):
        try:
            work()
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []


def test_a_listing_that_misses_a_tag_and_its_deletion_do_not_wait_in_a_ring(world, monkeypatch):
    version = world.push(world.app("shop"), "1.0")
    Manifest.objects.update(kind="image", described_at=now())
    asked_at = now()
    meeting = threading.Barrier(2)

    def meet():
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(MEET_S)

    doubted, unnamed = versions.manifest_doubted, deleting.unnamed
    monkeypatch.setattr(versions, "manifest_doubted", lambda **values: (doubted(**values), meet()))
    monkeypatch.setattr(deleting, "unnamed", lambda rows: (meet(), unnamed(rows))[1])
    _together(
        lambda: repository_listed(repository=Repository.objects.get(), tags={}, asked_at=asked_at),
        lambda: version_remove(version=version, by="alice"),
    )
    assert not Version.objects.filter(is_current=True).exists()


def test_who_fails_while_another_signs_in_from_there_is_counted(world, monkeypatch):
    attempt = throttle.Attempt("registry", "alice", "203.0.113.7")
    throttle.failed(attempt)
    begun, let_in = threading.Event(), threading.Event()
    real = throttle.timedelta

    def counting(**values):
        # After the row was found, and before it is counted in.
        if threading.current_thread().name == "fails" and not begun.is_set():
            begun.set()
            let_in.wait(MEET_S)
        return real(**values)

    monkeypatch.setattr(throttle, "timedelta", counting)

    def fail():
        threading.current_thread().name = "fails"
        throttle.failed(attempt)

    def sign_in():
        begun.wait(10)
        throttle.passed(attempt)
        let_in.set()

    _together(fail, sign_in)
