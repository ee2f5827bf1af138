"""Work that is divided between processes: each piece has one owner, and a dead owner's pieces find another."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.models import Duty
from apps.core.shares import Share

pytestmark = pytest.mark.django_db


def test_two_processes_share_the_work_and_no_piece_has_two_owners():
    one, other = Share("watch", limit=3), Share("watch", limit=3)
    mine, theirs = one.renew(range(5)), other.renew(range(5))
    assert (len(mine), len(theirs)) == (3, 2)
    assert mine | theirs == set(range(5))
    assert (one.renew(range(5)), other.renew(range(5))) == (mine, theirs)


def test_a_dead_processes_part_goes_to_another_after_its_lease():
    dead, other = Share("watch", limit=10), Share("watch", limit=10)
    dead.renew(range(4))
    assert other.renew(range(4)) == set()
    Duty.objects.update(lease_until=now() - timedelta(seconds=1))
    assert other.renew(range(4)) == set(range(4))
    assert dead.renew(range(4)) == set()


def test_what_is_given_back_is_free_at_once():
    ending, other = Share("watch", limit=10), Share("watch", limit=10)
    ending.renew([1, 2])
    ending.give_back()
    assert other.renew([1, 2]) == {1, 2}


def test_what_is_no_work_any_more_leaves_nothing_and_frees_its_place():
    share = Share("watch", limit=2)
    share.renew([1, 2])
    Duty.objects.create(name="sweep")
    assert share.renew([2, 3]) == {2, 3}
    assert set(Duty.objects.values_list("name", flat=True)) == {"sweep", "watch:2", "watch:3"}
