"""Strategies, pause and continue, the way back, differences, settings and secrets, scale: over the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.deployments.models import Instance, Release, Rollout
from apps.tenants.services.tokens import token_create

API = "/api/v1/apps/shop/"
CANARY = {"strategy": "canary", "steps": [{"weight": 10}, {"weight": 50, "pause_s": 60}], "judge_s": 0}
FIRST = {
    "version": "1.0",
    "instances": 4,
    "settings": {"LEVEL": "info", "GONE": "soon"},
    "secrets": {"PASSWORD": "hush-1", "KEY": "hush-2"},
}

Caller = Callable[[str], APIClient]


@pytest.fixture
def call(world: Any) -> Caller:
    def make(name: str) -> APIClient:
        client = APIClient()
        _, secret = token_create(user=getattr(world, name), name="test", scopes=())
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        return client

    return make


@pytest.fixture
def serving(world: Any, loop: Any, call: Caller) -> Any:
    """Release 1 of version 1.0 serves with four instances; 2.0 is there."""
    world.host()
    app = world.app("shop")
    world.push(app)
    assert call("bob").post(f"{API}rollouts/", FIRST).status_code == 202
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    return app


def test_a_canary_waits_is_continued_and_paused(serving: Any, loop: Any, call: Caller) -> None:
    client = call("bob")
    told = client.post(f"{API}rollouts/", {"version": "2.0", **CANARY}).json()
    assert (told["strategy"], told["steps"]) == (
        "canary",
        [{"weight": 10, "pause_s": None}, {"weight": 50, "pause_s": 60}],
    )
    loop.settle(5)
    assert client.get(f"{API}rollouts/2/").json()["status"] == "paused"
    told = client.post(f"{API}rollouts/2/continue/")
    assert (told.status_code, told.json()["status"], told.json()["step"]) == (200, "progressing", 1)
    told = client.post(f"{API}rollouts/2/pause/")
    assert (told.status_code, told.json()["status"]) == (200, "paused")
    assert client.post(f"{API}rollouts/2/pause/").json()["status"] == "paused"
    assert client.post(f"{API}rollouts/2/continue/").json()["status"] == "progressing"
    refused = client.post(f"{API}rollouts/2/continue/")
    assert (refused.status_code, refused.json()["code"]) == (409, "rollouts.not_paused")


@pytest.mark.parametrize("action", ["pause", "continue", "cancel"])
def test_what_has_ended_is_neither_paused_continued_nor_cancelled(serving: Any, call: Caller, action: str) -> None:
    told = call("bob").post(f"{API}rollouts/1/{action}/")
    assert (told.status_code, told.json()["code"]) == (409, "rollouts.not_open")
    told = call("bob").post(f"{API}rollouts/9/{action}/")
    assert (told.status_code, told.json()["code"]) == (404, "rollouts.not_found")


def test_superseding_gives_up_what_is_open(serving: Any, call: Caller) -> None:
    client = call("bob")
    for _ in range(2):
        client.post(f"{API}rollouts/", {"version": "2.0"})
    assert client.post(f"{API}rollouts/", {"version": "2.0", "supersede": True}).status_code == 202
    assert [client.get(f"{API}rollouts/{number}/").json()["status"] for number in (2, 3)] == ["superseded"] * 2


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"strategy": "yolo"}, "request.invalid", None),
        ({"strategy": "canary", "steps": [{"weight": 50}, {"weight": 10}]}, "rollouts.invalid", "steps"),
        ({"strategy": "rolling", "keep_s": 60}, "rollouts.invalid", "keep_s"),
        ({"max_surge": 0, "max_unavailable": 0}, "rollouts.invalid", "max_surge"),
        ({"max_surge": "a lot"}, "rollouts.invalid", "max_surge"),
        ({"max_surge": True}, "request.invalid", None),
        ({"judge_s": 86401}, "rollouts.invalid", "judge_s"),
        ({"secrets": {"A": "1"}, "settings": {"A": "2"}}, "releases.invalid", "settings"),
        ({"settings": {"PORT": "1"}}, "releases.invalid", "env"),
        ({"settings": ["A"]}, "request.invalid", None),
    ],
)
def test_options_that_make_no_sense_name_their_field(
    serving: Any, call: Caller, options: dict[str, Any], code: str, field: str | None
) -> None:
    told = call("bob").post(f"{API}rollouts/", {"version": "2.0", **options})
    assert (told.status_code, told.json()["code"], told.json().get("field")) == (400, code, field)
    assert Release.objects.count() == 1


def test_single_variables_change_and_null_takes_one_away(serving: Any, call: Caller) -> None:
    client = call("bob")
    change = {"settings": {"LEVEL": "debug", "GONE": None}, "secrets": {"KEY": None, "PASSWORD": "hush-3"}}
    assert client.post(f"{API}rollouts/", {"version": "2.0", **change}).status_code == 202
    release = client.get(f"{API}releases/").json()["results"][0]
    assert (release["env_names"], release["settings"]) == (["LEVEL", "PASSWORD"], {"LEVEL": "debug"})
    assert Release.objects.get(number=2).env == {"LEVEL": "debug", "PASSWORD": "hush-3"}
    client.post(f"{API}rollouts/", {"version": "2.0", "env": {"ONLY": "hush-4"}})
    release = client.get(f"{API}releases/").json()["results"][0]
    assert (release["env_names"], release["settings"]) == (["ONLY"], {})


def test_a_diff_says_what_differs(serving: Any, call: Caller) -> None:
    client = call("bob")
    body = {"version": "2.0", "settings": {"LEVEL": "debug"}, "secrets": {"KEY": "hush-3"}, "memory_mb": 300}
    client.post(f"{API}rollouts/", body)
    told = call("vera").get(f"{API}releases/1/diff/").json()
    assert (told["old"], told["new"]) == (2, 1), "left out: the one that is on its way in"
    told = call("vera").get(f"{API}releases/2/diff/?old=1").json()
    changes = {one["field"]: (one["before"], one["after"], one["secret"]) for one in told["changes"]}
    assert changes["version"] == ("1.0", "2.0", False)
    assert changes["env.LEVEL"] == ("info", "debug", False)
    assert changes["env.KEY"] == ("(secret)", "(secret)", True)
    assert changes["memory_mb"] == (256, 300, False)
    assert "env.PASSWORD" not in changes
    assert client.get(f"{API}releases/2/diff/?old=2").json()["changes"] == []
    for path in ("9/diff/", "2/diff/?old=9"):
        missing = client.get(f"{API}releases/{path}")
        assert (missing.status_code, missing.json()["code"]) == (404, "releases.not_found")


def test_a_setting_of_a_secret_s_value_does_not_tell_it(serving: Any, call: Caller) -> None:
    client = call("bob")
    client.post(f"{API}rollouts/", {"version": "2.0", "settings": {"PASSWORD": "hush-1"}})
    (change,) = [
        one for one in client.get(f"{API}releases/2/diff/?old=1").json()["changes"] if one["field"].startswith("env.")
    ]
    assert (change["field"], change["before"], change["after"]) == ("env.PASSWORD", "(secret)", "(secret)")


def test_a_rollback_is_a_new_release_with_the_whole_content_of_the_old_one(
    serving: Any, loop: Any, call: Caller
) -> None:
    client = call("bob")
    refused = client.post(f"{API}rollback/", {})
    assert (refused.status_code, refused.json()["code"]) == (404, "releases.not_found")
    body = {"version": "2.0", "settings": {"LEVEL": "debug"}, "secrets": {"KEY": None}, "memory_mb": 300, "judge_s": 0}
    client.post(f"{API}rollouts/", body)
    loop.settle(25)
    assert client.get(f"{API}rollouts/2/").json()["status"] == "succeeded"
    told = client.post(f"{API}rollback/", {"strategy": "blue_green", "keep_s": 0, "judge_s": 0})
    assert (told.status_code, told["Location"].endswith("/apps/shop/rollouts/3/")) == (202, True)
    answer = told.json()
    expected = ("rollback", 3, "1.0", "blue_green", 4)
    assert tuple(answer[name] for name in ("kind", "release", "version", "strategy", "instances")) == expected
    assert client.get(f"{API}releases/3/diff/?old=1").json()["changes"] == []
    loop.settle(20)
    done = client.get(f"{API}rollouts/3/").json()
    assert done["status"] == "succeeded"
    assert {"took_s", "waited_s", "steps", "stages", "slowest", "traffic"} == set(done["report"])
    assert [one["step"] for one in done["report"]["steps"]][:2] == ["asked", "began"]
    missing = client.post(f"{API}rollback/", {"release": 9})
    assert (missing.status_code, missing.json()["code"]) == (404, "releases.not_found")


def test_scale_up_down_to_none_and_back(serving: Any, loop: Any, call: Caller) -> None:
    client = call("bob")
    for number in (6, 1, 0, 2):
        told = client.post(f"{API}scale/", {"instances": number})
        assert told.status_code == 202
        loop.settle()
        assert Instance.objects.filter(released=False, status="healthy").count() == number
    assert client.get(API).json()["instances_ready"] == 2
    assert Rollout.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"instances": 501}, 400, "releases.invalid"),
        ({"instances": -1}, 400, "releases.invalid"),
        ({"instances": "many"}, 400, "request.invalid"),
        ({}, 400, "request.invalid"),
        ({"instances": 400}, 409, "quota.exceeded"),
    ],
)
def test_a_refused_scale_changes_nothing(
    serving: Any, call: Caller, body: dict[str, Any], status: int, code: str
) -> None:
    told = call("bob").post(f"{API}scale/", body)
    assert (told.status_code, told.json()["code"]) == (status, code)
    assert Instance.objects.filter(released=False).count() == 4


def test_what_is_not_deployed_or_moves_is_not_scaled(serving: Any, world: Any, call: Caller) -> None:
    client = call("bob")
    client.post(f"{API}rollouts/", {"version": "2.0"})
    told = client.post(f"{API}scale/", {"instances": 2})
    assert (told.status_code, told.json()["code"]) == (409, "rollouts.in_progress")
    world.app("other")
    told = client.post("/api/v1/apps/other/scale/", {"instances": 2})
    assert (told.status_code, told.json()["code"]) == (409, "apps.not_deployed")


def test_a_viewer_sees_all_and_changes_nothing(serving: Any, call: Caller) -> None:
    client = call("vera")
    for path in ("rollouts/", "rollouts/1/", "releases/", "releases/1/diff/"):
        assert client.get(f"{API}{path}").status_code == 200, path
    for path, body in (
        ("rollouts/1/pause/", {}),
        ("rollouts/1/continue/", {}),
        ("rollouts/1/cancel/", {}),
        ("rollback/", {"release": 1}),
        ("scale/", {"instances": 1}),
    ):
        told = client.post(f"{API}{path}", body)
        assert (told.status_code, told.json()["code"]) == (403, "permission.denied"), path
    assert Instance.objects.filter(released=False).count() == 4


def test_a_secret_s_value_stands_in_no_answer(serving: Any, loop: Any, call: Caller) -> None:
    client = call("alice")
    client.post(f"{API}rollouts/", {"version": "2.0", "secrets": {"PASSWORD": "hush-3"}, "env": {"OLD": "hush-4"}})
    loop.settle(20)
    client.post(f"{API}rollback/", {"release": 1})
    refused = client.post(f"{API}rollouts/", {"version": "2.0", "secrets": {"PORT": "hush-5"}})
    assert refused.status_code == 400
    answers = [refused.content]
    for path in (
        "",
        "releases/",
        "releases/1/diff/?old=2",
        "releases/2/diff/?old=1",
        "rollouts/",
        "rollouts/1/",
        "rollouts/2/",
        "rollouts/3/",
        "instances/",
        "events/",
        "versions/",
    ):
        answer = client.get(f"{API}{path}")
        assert answer.status_code == 200, path
        answers.append(answer.content)
    assert b"PASSWORD" in b"".join(answers)
    assert b"hush-" not in b"".join(answers)
