"""A hostile tenant against what releases, rollouts, checks and capsules take and tell."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest

from apps.deployments.checks import Check, Kind
from apps.deployments.models import Instance
from apps.deployments.reconcile import instance as loop_of_instances
from apps.deployments.reconcile.answers import MAX_BODY, Wrong, judged
from apps.deployments.reconcile.logtext import MASK, SIZE, masked, readable
from apps.deployments.reconcile.probes import probe_pass
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.hosts.engines.base import ImageUnavailable, SpecRefused
from tests.security.test_abuse import _api

PASSWORD = "correct-horse"
Status = Instance.Status


@pytest.fixture
def shop(world, loop):
    """One that runs, with a secret."""
    world.host()
    app = world.app()
    world.push(app)
    asked = ReleaseSettings(secrets={"PASSWORD": PASSWORD}, settings={"REGION": "frankfurt"})
    rollout_start(app=app, version="1.0", by=world.alice, settings_=asked)
    loop.settle()
    assert Instance.objects.get().status == Status.HEALTHY
    return app


# Numbers and texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["9" * 5000, "9" * 30, "-1", "\u00b2", "1.0", "x"])
def test_a_release_to_compare_with_that_is_no_number_is_not_found(world, shop, old):
    reply = _api(world.alice).get("/api/v1/apps/shop/releases/1/diff/", {"old": old})
    assert (reply.status_code, reply.json()["code"]) == (404, "releases.not_found")


@pytest.mark.parametrize(
    "body", [r'{"env": {"\ud800": [1]}}', r'{"strategy": "\ud800"}', r'{"readiness": {"kind": "\udfff"}}']
)
def test_halves_of_letters_are_refused_in_words_that_can_be_written(world, shop, body):
    client = _api(world.alice)
    client.raise_request_exception = False
    body = '{"version": "1.0", ' + body[1:]
    reply = client.generic("POST", "/api/v1/apps/shop/rollouts/", body, content_type="application/json")
    assert reply.status_code == 400, reply.content
    assert reply.json()["code"] == "request.invalid"
