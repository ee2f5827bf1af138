"""Nudges that are kept back until what can't wait is done."""

from __future__ import annotations

import pytest
from django.db import transaction

from apps.core import jobs


@pytest.mark.django_db(transaction=True)
def test_nudges_of_a_block_are_sent_once_each_when_it_ends(nudges):
    with jobs.sent_last():
        with transaction.atomic():
            jobs.enqueue("one", 1)
        jobs.enqueue("two", 2)
        jobs.enqueue("one", 1)
        assert nudges == []
    assert nudges == [("one", (1,)), ("two", (2,))]
    jobs.enqueue("three")
    assert nudges[-1] == ("three", ())


@pytest.mark.django_db(transaction=True)
def test_nudges_are_sent_though_the_block_fails(nudges):
    def fail():
        with jobs.sent_last():
            jobs.enqueue("one", 1)
            assert nudges == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert nudges == [("one", (1,))]


@pytest.mark.django_db(transaction=True)
def test_nudges_may_be_handed_to_somebody_who_sends_them(nudges):
    taken = []
    with jobs.handed_to(taken.append), jobs.sent_last():
        jobs.enqueue("one", 1)
    assert (taken, nudges) == ([("one", (1,))], [])
    jobs.send(taken[0])
    assert nudges == taken
