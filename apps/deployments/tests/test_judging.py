"""The verdict: a new version that answers worse goes back by itself, and chance is not held against it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.core.clock import now
from apps.deployments.models import Instance, Rollout
from apps.deployments.reconcile.judging import MIN_REQUESTS, verdict
from apps.deployments.services.moves import SNAPSHOTS
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.services.strategies import Options
from apps.deployments.tests.steps import deploy
from apps.deployments.verdict_data import Seen
from gateway.contract import ANSWER_BOUNDS_MS, ANSWER_BUCKETS

STEPWISE = ["rolling", "canary", "in_place"]


def seen(requests, errors=0, ms=10):
    histogram = [0] * ANSWER_BUCKETS
    histogram[next(n for n, bound in enumerate(ANSWER_BOUNDS_MS) if bound >= ms)] = requests
    return Seen(requests, errors, tuple(histogram))


@pytest.mark.parametrize(
    ("new", "old", "code"),
    [
        (seen(60, 20), seen(120, 0), "rollout.unhealthier"),
        (seen(60, 20), seen(120, 40), ""),  # just as bad as before
        (seen(49, 49), seen(120, 0), ""),  # too few to say
        (seen(60, 4), seen(120, 0), ""),  # four may be chance
        (seen(1000, 60), seen(1000, 10), ""),  # five points more, not six
        (seen(1000, 80), seen(1000, 10), "rollout.unhealthier"),
        (seen(100, 20), seen(0), ""),  # nothing to compare with, and not bad by itself
        (seen(100, 30), seen(0), "rollout.unhealthier"),
        (seen(500, 0, 600), seen(500, 0, 100), "rollout.slower"),
        (seen(500, 0, 90), seen(500, 0, 10), ""),  # nine times as slow, and still fast
        (seen(150, 0, 600), seen(500, 0, 100), ""),  # too few to say
        (seen(500, 0, 100), seen(500, 0, 600), ""),
    ],
)
def test_the_verdict(new, old, code):
    found = verdict(new, old)
    assert found.worse == code
    assert bool(found.reason) is bool(code)
    assert found.evidence["new"]["requests"] == new.requests


@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0, 1))
def test_a_version_that_answers_no_worse_than_the_old_one_is_never_sent_back(ours, theirs, share):
    """Whatever the numbers: with no greater a part of errors, and as fast."""
    new, old = seen(ours, int(ours * share)), seen(theirs, -int(-theirs * share // 1))
    if theirs >= MIN_REQUESTS:
        assert verdict(new, old).worse == ""


@pytest.fixture
def serving(app, world, loop):
    deploy(app, world, instances=2)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    for one in Instance.objects.filter(app=app):
        loop.traffic.count(app.slug, one.container_id, 500)
    return app


def start(app, world, strategy):
    more = {"steps": [{"weight": 10, "pause_s": 60}]} if strategy == "canary" else {}
    options = Options(strategy=strategy, judge_s=30, **more)
    return rollout_start(app=app, version="2.0", by=world.alice, options=options)


def answer(app, loop, replica_set_id, requests, errors=0, ms=10):
    rows = Instance.objects.filter(replica_set_id=replica_set_id, status="healthy")
    for one in rows:
        loop.traffic.count(app.slug, one.container_id, requests, errors=errors, ms=ms)


def to_judging(rollout, loop):
    for _ in range(12):
        loop.step()
        rollout.refresh_from_db()
        if rollout.phase == "judging":
            return
    raise AssertionError(rollout.phase)


@pytest.mark.parametrize("strategy", [*STEPWISE, "blue_green"])
def test_one_that_is_ready_but_answers_with_errors_is_rolled_back_with_the_evidence(
    serving, world, loop, discovery, strategy
):
    rollout = start(serving, world, strategy)
    to_judging(rollout, loop)
    answer(serving, loop, rollout.source_id, 100)
    answer(serving, loop, rollout.target_id, 90, errors=30)
    loop.settle(8)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == ("rolled_back", "rollout.unhealthier")
    assert "with an error" in rollout.reason
    assert not rollout.evidence.keys() & set(SNAPSHOTS), "whole snapshots are kept no longer than they are needed"
    evidence = rollout.evidence["verdict"]
    assert evidence["new"]["errors_5xx"] * 3 == evidence["new"]["requests"]
    assert rollout.report["traffic"]["errors_5xx"] == evidence["new"]["errors_5xx"]
    assert {tag for tag, _ in discovery.nodes[serving.slug]} == {"1.0"}
    assert discovery.weights[serving.slug] == {"1.0": 100}
    assert Instance.objects.filter(released=False, status="healthy").count() == 2


@pytest.mark.parametrize("strategy", STEPWISE)
def test_one_that_answers_as_well_goes_on_before_the_time_is_over(serving, world, loop, strategy):
    rollout = start(serving, world, strategy)
    to_judging(rollout, loop)
    answer(serving, loop, rollout.source_id, 300)
    answer(serving, loop, rollout.target_id, 300)
    loop.step()
    rollout.refresh_from_db()
    assert rollout.phase == "judging", "not within the first moment"
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=3))
    loop.step()
    rollout.refresh_from_db()
    assert any(key.startswith("judged") for key in rollout.evidence)


def test_where_nobody_asks_there_is_nothing_to_wait_for(serving, world, loop):
    rollout = start(serving, world, "rolling")
    to_judging(rollout, loop)
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=4))
    loop.settle(10)
    rollout.refresh_from_db()
    assert rollout.status == "succeeded"
    assert rollout.evidence["judged"]["new"]["requests"] == 0


def test_where_no_gateway_can_tell_the_rollout_goes_on_and_says_so(serving, world, loop):
    loop.traffic.counters.clear()
    rollout = start(serving, world, "rolling")
    to_judging(rollout, loop)
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=31))
    loop.settle(10)
    rollout.refresh_from_db()
    assert rollout.status == "succeeded"
    assert rollout.evidence["judged"]["unknown"]
    assert rollout.report["traffic"] == {}


def test_a_gateway_that_began_to_count_anew_is_not_held_against_anybody(serving, world, loop):
    rollout = start(serving, world, "rolling")
    to_judging(rollout, loop)
    loop.traffic.counters.clear()
    loop.traffic.since = "00000000-0000-0000-0000-000000000002"
    answer(serving, loop, rollout.source_id, 100)
    answer(serving, loop, rollout.target_id, 100)
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=31))
    loop.settle(10)
    rollout.refresh_from_db()
    assert rollout.status == "succeeded"
    assert rollout.evidence["judged"]["new"]["errors_5xx"] == 0


def test_one_that_turns_out_worse_only_once_there_is_more_of_it_goes_back_as_well(serving, world, loop, discovery):
    options = Options(strategy="rolling", judge_s=30, max_surge=1)
    rollout = rollout_start(app=serving, version="2.0", by=world.alice, instances=3, options=options)
    to_judging(rollout, loop)
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=31))
    loop.step()
    rollout.refresh_from_db()
    assert (rollout.phase, "judged" in rollout.evidence) == ("moving", True)
    answer(serving, loop, rollout.source_id, 100)
    answer(serving, loop, rollout.target_id, 100, errors=50)
    loop.settle(12)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == ("rolled_back", "rollout.unhealthier")
    assert {tag for tag, _ in discovery.nodes[serving.slug]} == {"1.0"}
    assert Instance.objects.filter(released=False, status="healthy").count() == 2
