"""The order in which news are told, whatever the order in which transactions commit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portal.api.feed import GAP_S, GAPS_KEPT, LATE_S, Order


def test_what_follows_without_a_gap_is_told_at_once():
    order = Order(10)
    assert order.take([11, 12, 13], 0.0) == ([11, 12, 13], [])
    assert order.settled == 13
    assert order.take([], 1.0) == ([], [])


def test_what_stands_behind_a_gap_waits_until_it_is_filled():
    order = Order(10)
    assert order.take([11, 13, 14], 0.0) == ([11], [])
    assert order.take([12, 13, 14], 1.0) == ([12, 13, 14], [])


def test_a_gap_that_is_never_filled_holds_nothing_up_for_long():
    order = Order(10)
    assert order.take([12, 14], 0.0) == ([], [])
    assert order.take([12, 14], GAP_S - 0.1) == ([], [])
    assert order.take([12, 14], GAP_S) == ([12, 14], [])
    assert order.gaps == [11, 13]


def test_what_comes_after_its_gap_was_given_up_is_told_late_and_once():
    order = Order(10)
    order.take([12], 0.0)
    order.take([12], GAP_S)
    assert order.take([11], GAP_S + 1) == ([], [11])
    assert order.settled == 12
    assert order.gaps == []


def test_gaps_are_not_remembered_for_ever_nor_without_number():
    order = Order(10)
    order.take([10_000_000], 0.0)
    order.take([10_000_000], GAP_S)
    assert len(order.gaps) == GAPS_KEPT
    order.take([], GAP_S + LATE_S)
    assert order.gaps == []


@given(st.lists(st.tuples(st.floats(0, 2.0), st.booleans()), max_size=30))
def test_whatever_commits_in_time_is_told_once_and_in_order(transactions):
    """Ids are given in turn; each transaction commits after a while of its own, or rolls back."""
    commits = {pk: (pk * 0.1 + after, kept) for pk, (after, kept) in enumerate(transactions, start=1)}
    order, told, at = Order(0), [], 0.0
    while at < 20:
        seen = [pk for pk, (when, kept) in commits.items() if kept and when <= at and pk > order.settled]
        news, late = order.take(seen, at)
        assert late == []
        told += news
        at += 0.5
    assert told == [pk for pk, (_, kept) in commits.items() if kept]
