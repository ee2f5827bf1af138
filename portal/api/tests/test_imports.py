"""The API of other registries and imports: who may, what is answered, and that no password comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from apps.registry.models import ExternalRegistry

pytestmark = pytest.mark.django_db
GIVEN = {"name": "there", "host": "registry.example.com", "username": "robot", "password": "s3cret-one"}
HERE = "/api/v1/tenants/acme/registries/"


def as_(user: Any) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    return client.generic(method, path, json.dumps(body or {}), content_type="application/json")


@pytest.fixture
def shop(world: Any) -> Any:
    return world.app("shop")


def test_a_credential_is_written_and_never_read(world: Any) -> None:
    alice = as_(world.alice)
    made = send(alice, "POST", HERE, GIVEN)
    assert made.status_code == 201
    changed = send(alice, "PATCH", f"{HERE}there/", {"password": "new-0ne"})
    answers = [made, changed, alice.get(HERE), alice.get(f"{HERE}there/")]
    for answer in answers:
        assert answer.status_code in (200, 201)
        assert b"password" not in answer.content
        assert b"s3cret" not in answer.content
        assert b"new-0ne" not in answer.content
    assert ExternalRegistry.objects.get().password == "new-0ne"
    assert send(alice, "DELETE", f"{HERE}there/").status_code == 204
    assert alice.get(f"{HERE}there/").json()["code"] == "external.not_found"


def test_members_look_on_and_strangers_see_nothing(world: Any) -> None:
    send(as_(world.alice), "POST", HERE, GIVEN)
    for user, seen, changed in ((world.bob, 200, 403), (world.vera, 200, 403), (world.charlie, 404, 404)):
        client = as_(user)
        assert client.get(HERE).status_code == seen
        assert client.get(f"{HERE}there/").status_code == seen
        assert send(client, "POST", HERE, {**GIVEN, "name": "mine"}).status_code == changed
        assert send(client, "PATCH", f"{HERE}there/", {"username": "me"}).status_code == changed
        assert send(client, "POST", f"{HERE}there/test/").status_code == changed
        assert send(client, "DELETE", f"{HERE}there/").status_code == changed


def test_a_test_says_what_came_of_it(world: Any) -> None:
    alice = as_(world.alice)
    send(alice, "POST", HERE, {**GIVEN, "host": "127.0.0.1:1"})
    answer = send(alice, "POST", f"{HERE}there/test/").json()
    assert answer["test_code"] == "address.refused"
    assert answer["tested_at"]


def test_an_import_is_asked_for_and_looked_at(shop: Any, world: Any) -> None:
    bob = as_(world.bob)
    body = {"source": "registry.example.com/team/app:1.0", "deploy": True}
    made = send(bob, "POST", "/api/v1/apps/shop/imports/", body)
    assert made.status_code == 202
    told = bob.get(made.headers["Location"]).json()
    assert (told["source"], told["tag"], told["status"], told["deploy"]) == (body["source"], "1.0", "waiting", True)
    assert [one["id"] for one in bob.get("/api/v1/apps/shop/imports/").json()["results"]] == [told["id"]]
    for user, status in ((world.vera, 403), (world.charlie, 404)):
        assert send(as_(user), "POST", "/api/v1/apps/shop/imports/", body).status_code == status
    assert as_(world.charlie).get(made.headers["Location"]).status_code == 404
    missing = "/api/v1/apps/shop/imports/00000000-0000-4000-8000-000000000001/"
    assert bob.get(missing).json()["code"] == "imports.not_found"
    assert send(bob, "POST", "/api/v1/apps/shop/imports/", {"source": "redis"}).json()["code"] == (
        "imports.reference_invalid"
    )
