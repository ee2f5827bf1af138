"""Host names over the API."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from apps.deployments.models import DomainName
from apps.tenants.services.tokens import token_create

PATH = "/api/v1/apps/shop/domains/"


def client_of(user):
    client = APIClient()
    _, secret = token_create(user=user, name="test")
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def alice(world):
    world.app("shop")
    return client_of(world.alice)


def test_a_name_is_asked_for_looked_at_moved_and_given_back(world, alice):
    world.app("blog")
    made = alice.post(PATH, {"name": "WWW.Example.com", "prefix": "/x/"})
    assert made.status_code == 201
    body = made.json()
    claim = DomainName.objects.get()
    assert (body["name"], body["prefix"], body["status"], body["app"]) == ("www.example.com", "/x", "pending", "shop")
    assert body["records"] == [
        {"type": "TXT", "name": "_berth-challenge.www.example.com", "value": f"berth-verify={claim.token}"},
        {"type": "CNAME", "name": "www.example.com", "value": "shop.localhost"},
    ]
    own = f"{PATH}{body['id']}/"
    assert alice.post(f"{own}check/").status_code == 202
    moved = alice.patch(own, {"app": "blog", "prefix": "/"}).json()
    assert (moved["app"], moved["prefix"]) == ("blog", "/")
    assert alice.get(own).json()["code"] == "domains.not_found"
    rows = alice.get("/api/v1/tenants/acme/domains/").json()["results"]
    assert {one["name"] for one in rows} == {"shop.localhost", "blog.localhost", "www.example.com"}
    assert alice.delete(own.replace("shop", "blog")).status_code == 204
    assert not DomainName.objects.exists()


def test_the_platforms_address_is_listed_and_stays(world, alice):
    (own,) = alice.get(PATH).json()["results"]
    assert (own["name"], own["is_platform"], own["status"], own["records"]) == ("shop.localhost", True, "proven", [])
    refused = alice.delete(f"{PATH}{own['id']}/")
    assert (refused.status_code, refused.json()["code"]) == (409, "domains.of_platform")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "request.invalid"),
        ({"name": "x" * 401}, 400, "request.invalid"),
        ({"name": "a b"}, 400, "domains.invalid"),
        ({"name": "www.example.com", "prefix": "/../x"}, 400, "domains.invalid"),
        ({"name": "x.localhost"}, 400, "domains.reserved"),
        ({"name": "pаypal.com"}, 400, "domains.lookalike"),
    ],
)
def test_what_can_not_be_had_has_a_code(world, alice, body, status, code):
    reply = alice.post(PATH, body)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert not DomainName.objects.exists()


def test_a_tenant_never_sees_or_moves_names_to_anothers_app(world, alice):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    charlie = client_of(world.charlie)
    theirs = charlie.post("/api/v1/apps/theirs/domains/", {"name": "www.example.org"}).json()["id"]
    assert alice.get(f"{PATH}{theirs}/").status_code == 404
    assert alice.patch(f"{PATH}{theirs}/", {"prefix": "/x"}).status_code == 404
    mine = alice.post(PATH, {"name": "www.example.com"}).json()["id"]
    assert alice.patch(f"{PATH}{mine}/", {"app": "theirs"}).json()["code"] == "apps.not_found"
    assert alice.get("/api/v1/tenants/rival/domains/").status_code == 404
    assert client_of(world.bob).post(PATH, {"name": "a.example.com"}).status_code == 403
