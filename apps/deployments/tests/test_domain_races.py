"""Two tenants at once, each with a connection of its own, on whatever database the run has."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from apps.core.errors import BerthError
from apps.deployments.models import Domain, DomainName
from apps.deployments.services.domains import domain_add, domain_change, domain_remove
from apps.deployments.services.proofs import Look, name_judged

pytestmark = pytest.mark.django_db(transaction=True)
SEEN = Look("txt")
GONE = Look(code="domains.proof_missing", is_gone=True)


def race(*works):
    """What each gave, or the code with which it was refused; anything else is an error of the test."""
    outcomes = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(number, work):
        try:
            start.wait()
            outcomes[number] = work()
        except BerthError as error:
            outcomes[number] = error.code
        except Exception as error:
            outcomes[number] = repr(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=one) for one in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


@pytest.fixture
def two(world_committed):
    world = world_committed
    shop = world.app("shop")
    theirs = world.app("theirs", tenant=world.rival, by=world.charlie)
    return world, shop, theirs


def names_proven():
    return list(DomainName.objects.filter(status="proven").values_list("name", "tenant__slug"))


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        ("www.example.com", "www.example.com"),
        ("*.example.com", "www.example.com"),
        ("*.example.com", "*.example.com"),
        ("*.example.com", "*.b.example.com"),
    ],
)
def test_of_two_that_prove_names_that_meet_at_once_one_gets_its_own(two, mine, others):
    world, shop, theirs = two
    for _ in range(8):
        first = domain_add(app=shop, name=mine, by=world.alice)
        second = domain_add(app=theirs, name=others, by=world.charlie)
        outcomes = race(
            lambda pk=first.held_id: name_judged(pk=pk, look=SEEN),
            lambda pk=second.held_id: name_judged(pk=pk, look=SEEN),
        )
        assert sorted(outcomes) == ["pending", "proven"], outcomes
        assert len(names_proven()) == 1
        domain_remove(domain=first, by=world.alice)
        domain_remove(domain=second, by=world.charlie)


def test_a_name_that_two_take_over_at_once_goes_to_one(two):
    world, _shop, theirs = two
    third = world.app("third", tenant=world.acme, by=world.alice)
    held = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    name_judged(pk=held.held_id, look=SEEN)
    name_judged(pk=held.held_id, look=GONE)
    new = domain_add(app=third, name="www.example.com", by=world.alice)
    outcomes = race(
        lambda: name_judged(pk=new.held_id, look=SEEN, without_proof=[held.held_id]),
        lambda: name_judged(pk=held.held_id, look=GONE),
        lambda: name_judged(pk=new.held_id, look=SEEN, without_proof=[held.held_id]),
    )
    assert set(outcomes) <= {"proven", "failed"}, outcomes
    assert names_proven() == [("www.example.com", "acme")]


def test_proving_removing_adding_and_moving_at_once_end_whole(two):
    """None waits for another in a ring, and no domain is left without its claim."""
    world, shop, _theirs = two
    blog = world.app("blog")
    for number in range(8):
        one = domain_add(app=shop, name=f"n{number}.example.com", by=world.alice)
        two_ = domain_add(app=blog, name=f"n{number}.example.com", prefix="/x", by=world.alice)
        outcomes = race(
            lambda pk=one.held_id: name_judged(pk=pk, look=SEEN),
            lambda domain=one: domain_remove(domain=domain, by=world.alice),
            lambda domain=two_: domain_change(domain=domain, app=shop, by=world.alice) and "moved",
            lambda n=number: domain_add(app=blog, name=f"n{n}.example.com", prefix="/y", by=world.alice) and "added",
        )
        assert outcomes == ["proven", None, "moved", "added"], outcomes
    held = Domain.objects.filter(is_platform=False)
    assert held.count() == 16
    assert all(one.held is not None and one.held.status == "proven" for one in held.select_related("held"))


def test_the_last_two_parts_of_a_name_that_go_at_once_take_the_claim_along(two):
    world, shop, _theirs = two
    blog = world.app("blog")
    for _ in range(8):
        parts = [
            domain_add(app=app, name="example.com", prefix=prefix, by=world.alice)
            for app, prefix in ((shop, "/a"), (blog, "/b"))
        ]
        outcomes = race(*(lambda one=one: domain_remove(domain=one, by=world.alice) for one in parts))
        assert outcomes == [None, None], outcomes
        assert not DomainName.objects.exists()
