"""Who fails to sign in waits, longer each time; who has the right secret does not wait for others' failures."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core import throttle
from apps.core.clock import now
from apps.core.models import FailedSignIns
from apps.core.throttle import FIRST_S, FORGET_S, FREE, MOST_S, Attempt, Throttled

Scope = FailedSignIns.Scope
pytestmark = pytest.mark.django_db
ALICE = Attempt("registry", "alice", "203.0.113.7")


def _fail(attempt, times):
    return [throttle.failed(attempt) for _ in range(times)][-1]


def _later(seconds):
    """As if so much time had passed."""
    by = timedelta(seconds=seconds)
    for row in FailedSignIns.objects.all():
        row.last_at -= by
        row.locked_until = row.locked_until - by if row.locked_until else None
        row.save()


def test_a_few_failures_are_free_and_then_the_wait_doubles_up_to_its_most():
    _fail(ALICE, FREE[Scope.PAIR] - 1)
    throttle.check(ALICE)
    waits = [_fail(ALICE, 1).wait_s for _ in range(12)]
    assert waits[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert waits[-1] == MOST_S
    with pytest.raises(Throttled) as caught:
        throttle.check(ALICE)
    assert MOST_S - 5 <= caught.value.extra["retry_after"] <= MOST_S + 1


def test_the_wait_ends_and_what_is_long_ago_is_forgotten():
    _fail(ALICE, FREE[Scope.PAIR])
    _later(FIRST_S + 1)
    throttle.check(ALICE)
    _later(FORGET_S)
    assert _fail(ALICE, 1).wait_s == 0
    _later(FORGET_S + 1)
    assert throttle.prune() == 3
    assert not FailedSignIns.objects.exists()


def test_the_right_secret_clears_the_count_of_its_name_there():
    _fail(ALICE, FREE[Scope.PAIR] - 1)
    throttle.passed(ALICE)
    assert _fail(ALICE, FREE[Scope.PAIR] - 1).wait_s == 0


def test_another_name_from_there_and_the_same_name_from_elsewhere_go_on():
    _fail(ALICE, FREE[Scope.PAIR] + 3)
    for other in (Attempt("registry", "bob", ALICE.address), Attempt("registry", "alice", "203.0.113.8")):
        throttle.check(other)
    throttle.check(Attempt("portal", "alice", ALICE.address))


def test_a_stranger_with_many_addresses_waits_and_locks_nobody_out():
    for number in range(FREE[Scope.NAME]):
        throttle.failed(Attempt("registry", "alice", f"198.51.100.{number}"))
    with pytest.raises(Throttled):
        throttle.check(Attempt("registry", "alice", "198.51.100.3"))
    throttle.check(ALICE)


def test_an_address_that_tries_many_names_waits_with_all_of_them():
    for number in range(FREE[Scope.ADDRESS]):
        throttle.failed(Attempt("registry", f"user{number}", ALICE.address))
    with pytest.raises(Throttled):
        throttle.check(Attempt("registry", "somebody-else", ALICE.address))
    throttle.check(Attempt("registry", "somebody-else", "203.0.113.8"))


def test_one_build_server_with_an_old_secret_locks_its_office_never_out():
    for _ in range(10 * FREE[Scope.ADDRESS]):
        throttle.failed(ALICE)
    throttle.check(Attempt("registry", "bob", ALICE.address))


def test_one_machine_is_one_address_whatever_of_its_ipv6_network_it_takes():
    for number in range(FREE[Scope.ADDRESS]):
        throttle.failed(Attempt("registry", f"user{number}", f"2001:db8::{number:x}"))
    with pytest.raises(Throttled):
        throttle.check(Attempt("registry", "x", "2001:db8::ffff:1"))
    throttle.check(Attempt("registry", "x", "2001:db8:0:1::1"))
    assert throttle.network_of("::ffff:203.0.113.7") == "203.0.113.7"


def test_where_no_address_is_known_no_address_is_counted():
    for number in range(FREE[Scope.ADDRESS] + 1):
        throttle.failed(Attempt("registry", f"user{number}", ""))
    throttle.check(Attempt("registry", "other", ""))


def test_names_are_kept_as_hashes_for_they_may_be_secrets():
    throttle.failed(Attempt("registry", "brt_typed-into-the-wrong-field", ALICE.address))
    for row in FailedSignIns.objects.all():
        assert "brt_" not in str(vars(row))


def test_it_is_told_once_that_the_waiting_began():
    told = [throttle.failed(ALICE).began for _ in range(40)]
    assert [at for at, began in enumerate(told, 1) if began] == [FREE[Scope.PAIR], FREE[Scope.NAME]]
    assert FailedSignIns.objects.filter(last_at__lte=now()).count() == 3
