"""Leases: one at a time, renewed while they are held, free again once they are not."""

from __future__ import annotations

import threading
import time

import pytest

from apps.core.clock import after, now
from apps.core.leases import held
from apps.core.models import Duty

pytestmark = pytest.mark.django_db(transaction=True)


def _until(condition, timeout_s=5):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lease_until(name):
    return Duty.objects.values_list("lease_until", flat=True).get(pk=name)


@pytest.fixture
def rows():
    for name in ("one", "two"):
        Duty.objects.create(name=name)


def test_a_row_is_held_by_one_and_free_afterwards(rows):
    with held(Duty, "one") as mine:
        with held(Duty, "one") as another:
            assert (mine, another) == (True, False)
        with held(Duty, "two") as other:
            assert other
    with held(Duty, "one") as mine:
        assert mine


def test_leases_that_are_held_for_long_are_renewed_all_of_them(rows, settings):
    settings.LEASE_S = 0.4
    with held(Duty, "one"), held(Duty, "two"):
        first = {name: _lease_until(name) for name in ("one", "two")}
        _until(lambda: all(_lease_until(name) > at for name, at in first.items()))
        late = after(0.4)
        _until(lambda: now() > late)
        with held(Duty, "one") as another:
            assert not another
    assert _lease_until("one") is None
    assert _lease_until("two") is None


def test_one_that_was_taken_over_is_not_renewed_for_its_first_holder(rows, settings):
    settings.LEASE_S = 0.4
    with held(Duty, "one"):
        until = after(100)
        Duty.objects.filter(pk="one").update(lease_owner="somebody else", lease_until=until)
        with held(Duty, "two"):
            first = _lease_until("two")
            _until(lambda: _lease_until("two") > first)
        assert _lease_until("one") == until
    assert Duty.objects.get(pk="one").lease_owner == "somebody else"


def test_many_leases_need_one_thread(rows):
    def threads():
        return [one for one in threading.enumerate() if one.name == "leases"]

    with held(Duty, "one"):
        before = len(threads())
        with held(Duty, "two"):
            assert len(threads()) == before == 1
