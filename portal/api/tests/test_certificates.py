"""Certificates over the API: sent and ordered, never with a key, and not for strangers."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from apps.deployments.models import Certificate
from gateway.tests.pki import SEALING_KEY, Authority

pytestmark = pytest.mark.django_db
HERE = "/api/v1/tenants/acme/certificates/"


@pytest.fixture
def people(world, settings):
    settings.GATEWAY_CERTIFICATE_KEYS = [SEALING_KEY]
    settings.ACME_DIRECTORY_URL = "https://ca.example.com/directory"
    world.holds(world.app(), "shop.example.com")

    def client(name):
        made = APIClient()
        made.force_authenticate(getattr(world, name))
        return made

    return client


def test_one_that_is_sent_is_listed_without_its_key_and_deleted(people):
    issued = Authority().issue("shop.example.com")
    made = people("alice").post(HERE, {"chain": issued.chain, "key": issued.key})
    assert made.status_code == 201
    for who in ("alice", "bob", "vera"):
        listed = people(who).get(HERE)
        assert [one["names"] for one in listed.json()["results"]] == [["shop.example.com"]]
        assert b"PRIVATE" not in listed.content
        assert people(who).get(f"{HERE}{made.json()['id']}/").status_code == 200
    assert people("alice").delete(f"{HERE}{made.json()['id']}/").status_code == 204
    assert not Certificate.objects.exists()


def test_one_that_is_ordered_waits_and_is_tried_again_by_hand_only_after_a_while(people):
    made = people("alice").post(HERE, {"name": "shop.example.com"})
    assert (made.status_code, made.json()["status"], made.json()["not_after"]) == (201, "waiting", None)
    again = people("alice").post(f"{HERE}{made.json()['id']}/retry/")
    assert (again.status_code, again.json()["code"]) == (409, "certificates.busy")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "request.invalid"),
        ({"name": "a.test", "chain": "x", "key": "y"}, "request.invalid"),
        ({"chain": "x"}, "request.invalid"),
        ({"chain": "x", "key": "y"}, "certificates.invalid"),
        ({"name": "bank.example.com"}, "certificates.name_not_held"),
    ],
)
def test_what_is_refused_says_why(people, body, code):
    answer = people("alice").post(HERE, body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_others_may_not_send_and_strangers_find_nothing(people):
    issued = Authority().issue("shop.example.com")
    for who, status in (("bob", 403), ("vera", 403), ("charlie", 404)):
        answer = people(who).post(HERE, {"chain": issued.chain, "key": issued.key})
        assert answer.status_code == status
        assert people(who).post(HERE, {"name": "shop.example.com"}).status_code == status
    assert people("charlie").get(HERE).status_code == 404
