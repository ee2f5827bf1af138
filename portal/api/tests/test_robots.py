"""Robot accounts over the API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from apps.core.clock import now
from apps.core.models import Event
from apps.registry.models import Robot
from apps.registry.selectors import live_robot
from apps.registry.services import robots
from apps.tenants.services.tenants import member_add
from apps.tenants.services.tokens import token_create

URL = "/api/v1/tenants/acme/robots/"


def _client(user, scopes=("api", "registry"), **values):
    _token, secret = token_create(user=user, name="test", scopes=scopes, **values)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def _code(reply):
    return (reply.status_code, reply.json()["code"])


@pytest.fixture
def shop(world):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    return world.app("shop")


def test_a_robot_is_made_listed_renewed_and_deleted(world, shop):
    client = _client(world.alice)
    made = client.post(URL, {"name": "ci", "app": "shop", "actions": ["push", "pull"]})
    assert made.status_code == 201
    body = made.json()
    assert (body["login"], body["app"], body["actions"]) == ("robot/acme/ci", "shop", ["pull", "push"])
    assert live_robot("robot/acme/ci", body["secret"]) is not None
    (listed,) = client.get(URL).json()["results"]
    assert "secret" not in listed
    assert body["secret"] not in str(listed)
    renewed = client.post(f"{URL}ci/secret/")
    assert renewed.status_code == 201
    assert live_robot("robot/acme/ci", body["secret"]) is None
    assert live_robot("robot/acme/ci", renewed.json()["secret"]) is not None
    assert client.delete(f"{URL}ci/").status_code == 204
    assert client.get(URL).json()["results"] == []
    told = [event.code for event in Event.objects.filter(tenant_id=world.acme.pk, code__startswith="robot.")]
    assert sorted(told) == ["robot.created", "robot.deleted", "robot.renewed"]


@pytest.mark.parametrize(("who", "may"), [("alice", True), ("ada", True), ("bob", False), ("vera", False)])
def test_owners_and_admins_make_robots_and_all_members_see_them(world, shop, who, may):
    world.ada = type(world.alice).objects.create_user("ada", "ada@example.com", "a-long-pass-phrase")
    member_add(tenant=world.acme, user=world.ada, role="admin")
    robots.robot_create(tenant=world.acme, by=world.alice, name="old")
    client = _client(getattr(world, who))
    assert [one["name"] for one in client.get(URL).json()["results"]] == ["old"]
    replies = [
        client.post(URL, {"name": "ci"}),
        client.post(f"{URL}old/secret/"),
        client.delete(f"{URL}old/"),
    ]
    if may:
        assert [reply.status_code for reply in replies] == [201, 201, 204]
    else:
        assert [_code(reply) for reply in replies] == [(403, "permission.denied")] * 3


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"name": "ci", "actions": ["admin"]}, (400, "request.invalid")),
        ({"name": "ci", "actions": []}, (400, "request.invalid")),
        ({"name": "CI"}, (400, "slug.invalid")),
        ({"name": "../x"}, (400, "slug.invalid")),
        ({"name": "ci", "app": "theirs"}, (400, "robots.invalid")),
        ({"name": "ci", "app": "no-such-app"}, (400, "robots.invalid")),
        ({"name": "ci", "expires_at": "2001-01-01T00:00:00Z"}, (400, "robots.invalid")),
        ({"name": "old"}, (409, "robots.name_taken")),
    ],
)
def test_what_can_t_be_is_refused(world, shop, body, answer):
    robots.robot_create(tenant=world.acme, by=world.alice, name="old")
    assert _code(_client(world.alice).post(URL, body)) == answer
    assert Robot.objects.count() == 1


def test_a_robot_that_is_not_there_is_missing(world, shop):
    client = _client(world.alice)
    assert _code(client.delete(f"{URL}ci/")) == (404, "robots.not_found")
    assert _code(client.post(f"{URL}ci/secret/")) == (404, "robots.not_found")


def test_a_tenant_has_so_many_robots_at_most(world, shop, monkeypatch):
    monkeypatch.setattr(robots, "MOST", 2)
    client = _client(world.alice)
    assert [client.post(URL, {"name": name}).status_code for name in ("one", "two", "three")] == [201, 201, 409]


def test_a_token_makes_no_robot_that_reaches_further_than_itself(world, shop):
    robots.robot_create(tenant=world.acme, by=world.alice, name="for-ever")
    refused = _client(world.alice, scopes=["api"])
    assert _code(refused.post(URL, {"name": "ci"})) == (403, "permission.denied")
    assert _code(refused.post(f"{URL}for-ever/secret/")) == (403, "permission.denied")
    end = now() + timedelta(days=2)
    short = _client(world.alice, expires_at=end)
    assert short.post(URL, {"name": "ci"}).status_code == 201
    assert abs(Robot.objects.get(name="ci").expires_at - end) < timedelta(seconds=1)
    later = {"name": "later", "expires_at": (end + timedelta(days=1)).isoformat()}
    assert _code(short.post(URL, later)) == (400, "robots.invalid")
    assert _code(short.post(f"{URL}for-ever/secret/")) == (400, "robots.invalid")
    assert short.post(f"{URL}ci/secret/").status_code == 201
