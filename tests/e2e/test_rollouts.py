"""Rollouts of every kind on real parts, under load: nobody is to notice, whichever way they go and end."""

from __future__ import annotations

import pytest

from stack.environment import ROOT
from stack.journey import gateway_get, wait_for
from stack.parts.base import StackError
from tests.e2e.test_whole_path import SMALL, _leaked, _load, _published

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

#: Ready, and a third of its answers are errors.
THIRD = """
RUN ["/bin/busybox", "sh", "-c", "sed -i '2i [ $((RANDOM % 3)) = 0 ] && printf \\"Status: 500\\\\r\\\\n\\"' \
/app/www/cgi-bin/index.cgi"]
"""


@pytest.fixture(scope="module")
def owner(platform):
    member = platform.member("rollouts", "owner")
    member.login()
    return member


@pytest.fixture(scope="module")
def app(platform, owner):
    """1.0 serves with two instances; 2.0 and 3.0 (a third of whose answers are errors) are there."""
    owner.app_create("rollouts", "roll")
    text = (ROOT / "stack/sample/Dockerfile").read_text()
    owner.push_sample("roll", "1.0")
    owner.push_sample("roll", "2.0", dockerfile=f"{text}LABEL two=yes\n")
    third = text.replace("USER ", f"{THIRD.strip()}\nUSER ")
    owner.push_sample("roll", "3.0", dockerfile=third)
    for version in ("1.0", "2.0", "3.0"):
        owner.version_wait("roll", version)
    assert owner.deploy("roll", "1.0", instances=2, **SMALL)["status"] == "succeeded"
    yield "roll"
    owner.undeploy("roll")
    assert _leaked(platform, "roll") == {"allocations": 0, "ports": 0}


def _serves(platform, app):
    return {version: len(found) for version, found in _published(platform, app).items() if found}


def _all_gone_but(platform, app, number):
    def gone() -> bool:
        return len(platform.labelled(0, app) + platform.labelled(1, app)) == number

    wait_for("what is not wanted to be gone", gone, 30)


@pytest.mark.parametrize(
    ("version", "how"),
    [
        ("2.0", {"strategy": "rolling"}),
        ("1.0", {"strategy": "rolling", "max_surge": 0, "max_unavailable": 1}),
        ("2.0", {"strategy": "blue_green", "keep_s": 1}),
        ("1.0", {"strategy": "canary", "steps": [{"weight": 20, "pause_s": 1}, {"weight": 60, "pause_s": 1}]}),
        ("2.0", {"strategy": "in_place"}),
        ("2.0", {"strategy": "canary", "steps": [{"weight": 50, "pause_s": 0}], "settings": {"GREETING": "moved"}}),
    ],
    ids=["rolling", "rolling without surge", "blue-green", "canary", "in place", "canary of the same version"],
)
def test_no_request_fails_whatever_the_strategy(platform, owner, app, version, how):
    with _load(platform, app) as outcomes:
        rollout = owner.deploy(app, version, **how)
        _all_gone_but(platform, app, 2)
    assert rollout["status"] == "succeeded", rollout
    assert set(outcomes) == {"200"}, outcomes
    assert _serves(platform, app) == {version: 2}
    report = owner.request("GET", f"apps/{app}/rollouts/{rollout['number']}/")["report"]
    assert report["traffic"]["requests"] > 20
    assert report["traffic"]["errors_5xx"] == 0
    assert {one["name"] for one in report["stages"]} >= {"start", "become ready", "leave the gateways"}


def test_a_rollback_brings_back_the_whole_release(platform, owner, app):
    assert "moved" in gateway_get(platform.env, app).text
    first = owner.request("GET", f"apps/{app}/releases/")["results"][-1]
    changes = owner.request("GET", f"apps/{app}/releases/{first['number']}/diff/")["changes"]
    assert {one["field"] for one in changes} >= {"version", "env.GREETING"}
    with _load(platform, app) as outcomes:
        started = owner.request("POST", f"apps/{app}/rollback/", {"release": first["number"]})
        rollout = owner.rollout_wait(app, started["number"])
    assert (rollout["status"], rollout["kind"], rollout["version"]) == ("succeeded", "rollback", "1.0")
    assert set(outcomes) == {"200"}, outcomes
    assert "moved" not in gateway_get(platform.env, app).text


def test_a_version_of_whose_answers_a_third_are_errors_goes_back_by_itself(platform, owner, app):
    with _load(platform, app) as outcomes:
        rollout = owner.deploy(app, "3.0")
        _all_gone_but(platform, app, 2)
    assert (rollout["status"], rollout["code"]) == ("rolled_back", "rollout.unhealthier"), rollout
    assert rollout["verdict"]["new"]["errors_5xx"] >= 5
    assert rollout["verdict"]["old"]["errors_5xx"] == 0
    assert set(outcomes) == {"200", "500"}, outcomes
    assert outcomes["500"] < outcomes["200"]
    assert _serves(platform, app) == {"1.0": 2}


def test_queued_superseded_and_cancelled_rollouts_leave_the_old_version_serving(platform, owner, app):
    slow = {"strategy": "canary", "steps": [{"weight": 10, "pause_s": None}]}
    with _load(platform, app) as outcomes:
        first = owner.request("POST", f"apps/{app}/rollouts/", {"version": "2.0", **slow})
        second = owner.request("POST", f"apps/{app}/rollouts/", {"version": "2.0"})
        assert (second["status"], second["queue_position"]) == ("pending", 1)
        wait_for("the pause", lambda: _status(owner, app, first) == "paused", 60)
        third = owner.request("POST", f"apps/{app}/rollouts/", {"version": "2.0", "supersede": True, **slow})
        assert [_status(owner, app, one) for one in (first, second)] == ["superseded", "superseded"]
        wait_for("the pause", lambda: _status(owner, app, third) == "paused", 60)
        with pytest.raises(StackError, match=r"rollouts\.in_progress"):
            owner.request("POST", f"apps/{app}/scale/", {"instances": 3})
        owner.request("POST", f"apps/{app}/rollouts/{third['number']}/cancel/")
        _all_gone_but(platform, app, 2)
    assert set(outcomes) == {"200"}, outcomes
    assert _serves(platform, app) == {"1.0": 2}


def _status(owner, app, rollout):
    return owner.request("GET", f"apps/{app}/rollouts/{rollout['number']}/")["status"]


def test_scaled_to_none_the_gateway_says_so_and_scaled_up_again_it_serves(platform, owner, app):
    with _load(platform, app) as outcomes:
        owner.request("POST", f"apps/{app}/scale/", {"instances": 4})
        wait_for("four", lambda: _serves(platform, app) == {"1.0": 4}, 60)
        owner.request("POST", f"apps/{app}/scale/", {"instances": 2})
        _all_gone_but(platform, app, 2)
    assert set(outcomes) == {"200"}, outcomes
    owner.request("POST", f"apps/{app}/scale/", {"instances": 0})
    _all_gone_but(platform, app, 0)
    answer = gateway_get(platform.env, app)
    assert answer.status_code == 503
    owner.request("POST", f"apps/{app}/scale/", {"instances": 2})
    wait_for("it to serve again", lambda: gateway_get(platform.env, app).status_code == 200, 60)
    wait_for("two", lambda: _serves(platform, app) == {"1.0": 2}, 60)
