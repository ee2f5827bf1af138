"""Explaining placements over the API: who may ask, and what they learn."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from apps.deployments.api.placements import ExplainThrottle
from apps.deployments.models import Explanation, Instance
from apps.tenants.services.tokens import token_create

EXPLAIN = "/api/v1/placements/explain/"


def _client(user):
    client = APIClient()
    _, secret = token_create(user=user, name="test", scopes=())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def shop(world):
    for values in ({}, {"labels": {"zone": "b", "disk": "ssd"}}, {"memory_mb": 100}, {"availability": "cordoned"}):
        world.host(**values)
    app = world.app("shop")
    world.push(app)
    return app


def test_who_asks_too_often_is_told_when_to_ask_again_and_nobody_else_is_kept_waiting(world, shop, monkeypatch):
    monkeypatch.setattr(ExplainThrottle, "rate", "2/min")
    client = _client(world.vera)
    answers = [client.post(EXPLAIN, {"app": "shop"}) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "request.throttled"
    assert 0 < int(answers[2]["Retry-After"]) <= 60
    assert _client(world.bob).post(EXPLAIN, {"app": "shop"}).status_code == 200


@pytest.mark.parametrize("who", ["alice", "bob", "vera"])
@pytest.mark.parametrize("path", [EXPLAIN, EXPLAIN.rstrip("/")])
def test_members_learn_reasons_and_scores_but_no_names_and_no_numbers_of_hosts(world, shop, who, path):
    reply = _client(getattr(world, who)).post(path, {"app": "shop", "instances": 2})
    assert reply.status_code == 200
    body = reply.json()
    assert (body["fits"], body["placed"], body["hosts_total"], body["hosts_fitting"]) == (True, 2, 4, 2)
    assert body["refused"] == {"cordoned": 1, "not enough memory": 1}
    assert body["asked"] == {
        "instances": 2, "memory_mb": 256, "cpu_millis": 100, "placement": {}, "new_release": True,
    }  # fmt: skip
    assert [one["host"] for one in body["hosts"]] == ["host 1", "host 2", "host 3", "host 4"]
    assert [one["instances"] for one in body["hosts"]] == [1, 1, 0, 0]
    assert {one["host"] for one in body["chosen"]} == {"host 1", "host 2"}
    assert set(body["hosts"][0]) == {"host", "zone", "reason", "scores", "score", "instances"}
    assert b"host-" not in reply.content
    assert not Instance.objects.exists()
    assert not Explanation.objects.exists()


def test_operators_who_are_members_see_names(world, shop):
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    body = _client(world.alice).post(EXPLAIN, {"app": "shop"}).json()
    assert {one["host"] for one in body["hosts"]} == {"host-1", "host-2", "host-3", "host-4"}
    assert body["chosen"][0]["host"] == body["hosts"][0]["host"]


def test_numbers_do_not_follow_the_names(world, shop):
    """Who could count through the names' order would learn which host is which."""
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    for number in range(20):
        world.host(name=f"z-{number:02}", memory_mb=100)
    body = _client(world.alice).post(EXPLAIN, {"app": "shop"}).json()
    names = [one["host"] for one in body["hosts"] if one["reason"] == "not enough memory"]
    assert len(names) == 21
    assert names not in (sorted(names), sorted(names, reverse=True))


def test_strangers_find_nothing(world, shop):
    reply = _client(world.charlie).post(EXPLAIN, {"app": "shop"})
    assert (reply.status_code, reply.json()["code"]) == (404, "apps.not_found")
    missing = _client(world.charlie).post(EXPLAIN, {"app": "gone"})
    assert reply.json()["detail"].replace("shop", "gone") == missing.json()["detail"]


def test_what_if(world, shop):
    asked = {"app": "shop", "placement": {"constraints": ["disk == ssd"]}, "memory_mb": 64, "limit": 1}
    body = _client(world.vera).post(EXPLAIN, asked).json()
    assert body["refused"] == {"cordoned": 1, "label: not disk == ssd": 2}
    assert [(one["zone"], one["instances"]) for one in body["hosts"]] == [("b", 1)]
    assert body["asked"]["memory_mb"] == 64


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"placement": {"constraints": ["nonsense"]}}, "placement.rules_invalid"),
        ({"placement": {"affinity": ["theirs"]}}, "placement.rules_invalid"),
        ({"placement": "zone"}, "request.invalid"),
        ({"instances": 501}, "releases.invalid"),
        ({"memory_mb": 10**30}, "releases.invalid"),
        ({"instances": 2, "placement": {"global": True}}, "placement.global_has_no_count"),
        ({"limit": 501}, "request.invalid"),
        ({"limit": 0}, "request.invalid"),
        ({"app": None}, "request.invalid"),
    ],
)
def test_what_can_not_be_asked(world, shop, change, code):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    reply = _client(world.bob).post(EXPLAIN, {"app": "shop", **change})
    assert reply.json()["code"] == code


def test_a_refused_deploy_tells_where_its_explanation_is(world, shop):
    asked = {"version": "1.0", "instances": 1, "cpu_millis": 4000, "memory_mb": 4096}
    asked["placement"] = {"constraints": ["disk == nvme"]}
    refused = _client(world.bob).post("/api/v1/apps/shop/rollouts/", asked)
    assert (refused.status_code, refused.json()["code"]) == (409, "placement.no_host")
    path = f"/api/v1/placements/explanations/{refused.json()['explanation']}/"
    reply = _client(world.vera).get(path)
    body = reply.json()
    assert (reply.status_code, body["app"], body["code"], body["asked_by"]) == (200, "shop", "placement.no_host", "bob")
    assert body["asked"]["placement"] == {"constraints": ["disk == nvme"]}
    assert body["refused"] == {"cordoned": 1, "label: not disk == nvme": 3}
    assert b"host-" not in reply.content
    stranger = _client(world.charlie).get(path)
    assert (stranger.status_code, stranger.json()["code"]) == (404, "explanations.not_found")
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    assert b"host-1" in _client(world.alice).get(path).content
