"""Redis, ZooKeeper, PostgreSQL and all workers away at once, in the middle of a rollout: no user notices."""

from __future__ import annotations

import time

import pytest

from stack.journey import wait_for
from stack.load import load
from stack.outage import outage, parts_away
from tests.e2e.kills import amiss, audited

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
SMALL = {"memory_mb": 64, "cpu_millis": 50}
AWAY_S = 20
INSTANCES = 4


@pytest.fixture(scope="module")
def owner(platform):
    member = platform.member("kills", "owner")
    member.login()
    return member


@pytest.fixture
def app(platform, owner):
    slug = "outage"
    owner.app_create("kills", slug)
    owner.push_sample(slug, "1.0")
    owner.version_wait(slug, "1.0")
    rollout = owner.deploy(slug, "1.0", instances=INSTANCES, env={"GREETING": "before"}, judge_s=0, **SMALL)
    assert rollout["status"] == "succeeded", rollout
    yield slug
    owner.undeploy(slug)


def test_nobody_notices_that_the_platform_is_away_and_a_rollout_goes_on_afterwards(platform, owner, app):
    away = parts_away(platform)
    assert {"postgres", "redis", "zookeeper", "worker", "engines", "hosts-worker", "beat"} <= set(away)
    body = {"version": "1.0", "env": {"GREETING": "after"}, "strategy": "rolling", "max_surge": 1, "judge_s": 0}
    with load(platform.env, app, rate=50) as outcome:
        rollout = owner.request("POST", f"apps/{app}/rollouts/", body)
        wait_for("the rollout to be half through", lambda: _releases(owner, app) == 2, 60, 0.05)
        with outage(platform):
            until = time.monotonic() + AWAY_S
            wait_for("the end of the outage", lambda: time.monotonic() > until)
        ended = owner.rollout_wait(app, rollout["number"], 90)
        assert ended["status"] == "succeeded", ended
        wait_for("all to be as it should", lambda: not _amiss(platform, owner, app), 60, 0.5)
    assert outcome.failures == []
    assert outcome.requests > 20 * AWAY_S
    assert audited(platform) == []


def _releases(owner, app):
    return len({one["release"] for one in owner.instances(app)})


def _amiss(platform, owner, app):
    return amiss(platform, owner, app, wanted=INSTANCES, greeting="after")
