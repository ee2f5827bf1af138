"""Failure capsules over the API: who reads them, and what there is when there is none."""

from __future__ import annotations

import uuid

import pytest
from rest_framework.test import APIClient

from apps.deployments.models import FailureCapsule, Instance
from apps.deployments.services.rollouts import rollout_start
from apps.tenants.services.tokens import token_create


def _client(user):
    client = APIClient()
    _, secret = token_create(user=user, name="test", scopes=())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def instance(world):
    world.host()
    app = world.app("shop")
    world.push(app)
    rollout_start(app=app, version="1.0", by=world.alice, instances=1)
    return Instance.objects.get()


def _path(instance):
    return f"/api/v1/apps/shop/instances/{instance.uid}/capsule/"


def test_members_read_why_an_instance_ended(world, instance):
    FailureCapsule.objects.create(
        instance=instance, code="instance.exited", reason="It ended.", exit_code=137, signal="SIGKILL", log="boom\n"
    )
    for member in (world.alice, world.bob, world.vera):
        reply = _client(member).get(_path(instance))
        assert reply.status_code == 200
    told = reply.json()
    assert told.pop("created_at")
    assert told == {
        "uid": str(instance.uid),
        "code": "instance.exited",
        "reason": "It ended.",
        "exit_code": 137,
        "signal": "SIGKILL",
        "out_of_memory": False,
        "last_check": "",
        "log": "boom\n",
        "log_truncated": False,
        "log_missing": "",
    }


def test_where_there_is_none_the_code_says_whether_there_is_an_instance(world, instance):
    reply = _client(world.vera).get(_path(instance))
    assert (reply.status_code, reply.json()["code"]) == (404, "instances.no_capsule")
    reply = _client(world.vera).get(f"/api/v1/apps/shop/instances/{uuid.uuid4()}/capsule/")
    assert (reply.status_code, reply.json()["code"]) == (404, "instances.not_found")
    assert _client(world.vera).get("/api/v1/apps/shop/instances/1/capsule/").status_code == 404


def test_an_instance_of_another_app_is_not_found_below_this_one(world, instance):
    FailureCapsule.objects.create(instance=instance, log="secret\n")
    world.app("blog", tenant=world.rival, by=world.charlie)
    reply = _client(world.charlie).get(_path(instance).replace("/shop/", "/blog/"))
    assert (reply.status_code, reply.json()["code"]) == (404, "instances.not_found")
    reply = _client(world.charlie).get(_path(instance))
    assert (reply.status_code, reply.json()["code"]) == (404, "apps.not_found")
    assert b"secret" not in reply.content
