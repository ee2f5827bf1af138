"""The deploy form: from what was typed to a release, and each refusal in its place."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.checks import readiness_of
from apps.deployments.models import Instance, Release, Rollout
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from portal.web.forms import DeployForm
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import words

FULL = {
    "version": "1.0",
    "instances": "2",
    "memory_mb": "128",
    "cpu": "0.25",
    "container_port": "9000",
    "health_path": "/ok",
    "env_secrets": 'GREETING=\'hello\nworld\'\nexport EMPTY=\n# a remark\nQUOTED="a \\"b\\"\\n"',
}


def test_deploy_makes_the_release_that_was_asked_for(shop: Any, browser: Browser) -> None:
    answer = browser("bob").post("/apps/shop/deploy", FULL, follow=True)
    assert answer.redirect_chain == [("/apps/shop/", 302)]
    assert "Rollout 1 has begun: version 1.0." in words(answer.content)
    release = Release.objects.get()
    assert (release.memory_mb, release.cpu_millis, release.container_port) == (128, 250, 9000)
    assert release.health_path == "/ok"
    assert release.env == {"GREETING": "hello\nworld", "EMPTY": "", "QUOTED": 'a "b"\n'}
    assert release.created_by == "bob"
    assert Instance.objects.count() == 2


def test_empty_fields_keep_what_the_last_release_has(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    client.post("/apps/shop/deploy", FULL)
    Rollout.objects.update(status="succeeded")
    client.post("/apps/shop/deploy", {"version": "1.0"})
    first, second = Release.objects.order_by("number")
    for name in ("env", "memory_mb", "cpu_millis", "container_port", "health_path"):
        assert getattr(first, name) == getattr(second, name)


def test_an_empty_health_path_asks_for_a_tcp_check_and_variables_can_be_removed(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    client.post("/apps/shop/deploy", FULL)
    Rollout.objects.update(status="succeeded")
    client.post("/apps/shop/deploy", {"version": "1.0", "health_path": "", "env_clear": "on"})
    release = Release.objects.get(number=2)
    assert (release.health_path, release.env) == ("", {})


HEALTH = {
    "health_kind": "network",
    "health_statuses": "200-204",
    "health_text": "all well",
    "health_interval": "5",
    "health_timeout": "3",
    "health_start_period": "90",
    "health_failures": "4",
    "on_failure": "restart",
    "stop_signal": "SIGQUIT",
}


def test_the_health_check_is_as_it_was_asked_for_and_shown_again(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    client.post("/apps/shop/deploy", {**FULL, **HEALTH})
    release = Release.objects.get()
    check = readiness_of(release)
    assert (check.kind, check.path, check.statuses, check.text) == ("http", "/ok", (200, 204), "all well")
    assert (check.interval_s, check.timeout_s, check.start_period_s, check.failures) == (5, 3, 90, 4)
    assert (release.on_failure, release.stop_signal) == ("restart", "SIGQUIT")
    html = client.get("/apps/shop/").content.decode()
    assert 'name="health_statuses" value="200-204"' in html
    assert 'name="health_interval" value="5"' in html
    assert '<option value="restart" selected>' in html


def test_a_command_is_taken_apart_and_without_a_path_the_port_is_asked(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    command = {"health_kind": "command", "health_command": "/bin/ok 'a b' $HOME"}
    client.post("/apps/shop/deploy", {**FULL, **HEALTH, **command})
    assert readiness_of(Release.objects.get()).command == ("/bin/ok", "a b", "$HOME")
    assert "/bin/ok &#x27;a b&#x27; &#x27;$HOME&#x27;" in client.get("/apps/shop/").content.decode()
    Rollout.objects.update(status="succeeded")
    client.post("/apps/shop/deploy", {"version": "1.0", "health_kind": "network", "health_path": ""})
    assert readiness_of(Release.objects.get(number=2)).kind == "tcp"


def test_the_form_shows_what_the_last_release_has_but_no_values(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    client.post("/apps/shop/deploy", FULL)
    html = client.get("/apps/shop/").content.decode()
    assert 'name="memory_mb" value="128"' in html
    assert 'name="cpu" value="0.25"' in html
    assert 'name="instances" value="2"' in html
    assert 'value="/ok"' in html
    assert "GREETING" in html
    assert "hello" not in html


def test_single_variables_are_changed_and_removed_and_the_others_stay(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    first = {
        "version": "1.0",
        "env_settings": "LEVEL=info\nMOTTO='do\nread'",
        "env_secrets": "KEY=hush-1\nOTHER=hush-2",
    }
    client.post("/apps/shop/deploy", first)
    html = client.get("/apps/shop/").content.decode()
    assert "info" in html
    assert "hush" not in html
    assert html.count("secret, set") == 2
    more = {"env_settings": "LEVEL=debug", "env_secrets": "KEY=hush-3", "env_remove": ["OTHER", "MOTTO", "NOT_THERE"]}
    assert client.post("/apps/shop/deploy", {"version": "1.0", **more}).status_code == 302
    release = Release.objects.get(number=2)
    assert release.env == {"LEVEL": "debug", "KEY": "hush-3"}
    assert release.env_readable == ["LEVEL"]
    client.post("/apps/shop/deploy", {"version": "1.0", "env_clear": "on", "env_settings": "NEW=1"})
    release = Release.objects.get(number=3)
    assert (release.env, release.env_readable) == ({"NEW": "1"}, ["NEW"])


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"env_settings": "A=1", "env_secrets": "A=2"}, "env_secrets"),
        ({"env_settings": "A=1", "env_remove": ["A"]}, "env_remove"),
        ({"env_settings": "PORT=1"}, "env_settings"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    values: dict[str, Any], field: str, shop: Any, world: Any, browser: Browser
) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice, settings_=ReleaseSettings(env={"A": "0"}))
    answer = browser("alice").post("/apps/shop/deploy", {"version": "1.0", **values})
    html = answer.content.decode()
    assert answer.status_code == 400
    assert f'id="id_{field}_error"' in html
    assert html.count('class="errors"') == 1
    assert "releases.invalid" in html
    if "env_remove" in values:
        assert 'value="A" id="remove-A" aria-label="Remove A" checked' in html
    assert Release.objects.count() == 1


#: As a browser sends the section "How" when nobody touched it.
UNTOUCHED = {
    "strategy": "rolling",
    "max_surge": "25%",
    "max_unavailable": "0",
    "keep_s": "300",
    "steps_weight": ["10", "50", "", ""],
    "steps_pause": ["60", "60", "", ""],
    "judge_s": "10",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("rolling", 1, 0, 0, [], 10)),
        ({"max_surge": "2", "max_unavailable": "50 %", "judge_s": "0"}, ("rolling", 2, 2, 0, [], 0)),
        ({"keep_s": "nonsense", "steps_weight": ["x"]}, ("rolling", 1, 0, 0, [], 10)),
        ({"strategy": "blue_green"}, ("blue_green", 1, 0, 300, [], 10)),
        ({"strategy": "blue_green", "keep_s": "60", "max_surge": "?"}, ("blue_green", 1, 0, 60, [], 10)),
        ({"strategy": "in_place", "max_unavailable": "2"}, ("in_place", 0, 2, 0, [], 10)),
        ({"strategy": "canary"}, ("canary", 1, 0, 0, [(10, 60), (50, 60)], 10)),
        (
            {"strategy": "canary", "steps_weight": ["5%", "", "40"], "steps_pause": ["-", "", ""]},
            ("canary", 1, 0, 0, [(5, None), (40, None)], 10),
        ),
    ],
)
def test_how_it_is_rolled_out_is_as_the_form_says(
    change: dict[str, Any], expected: tuple[Any, ...], shop: Any, browser: Browser
) -> None:
    answer = browser("bob").post("/apps/shop/deploy", {**FULL, "instances": "4", **UNTOUCHED, **change})
    assert answer.status_code == 302
    one = Rollout.objects.get()
    steps = [(step["weight"], step["pause_s"]) for step in one.steps]
    assert (one.strategy, one.max_surge, one.max_unavailable, one.keep_s, steps, one.judge_s) == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"strategy": "yolo"}, "strategy"),
        ({"max_surge": "101%"}, "max_surge"),
        ({"max_surge": "0"}, "max_surge"),
        ({"max_unavailable": "-1"}, "max_unavailable"),
        ({"judge_s": "soon"}, "judge_s"),
        ({"judge_s": "86401"}, "judge_s"),
        ({"strategy": "blue_green", "keep_s": "86401"}, "keep_s"),
        ({"strategy": "canary", "steps_weight": ["", ""], "steps_pause": ["", ""]}, "steps"),
        ({"strategy": "canary", "steps_weight": ["50", "10"]}, "steps"),
        ({"strategy": "canary", "steps_weight": ["100"]}, "steps"),
        ({"strategy": "canary", "steps_weight": ["10"], "steps_pause": ["a day"]}, "steps"),
        ({"strategy": "canary", "steps_weight": ["", "10"], "steps_pause": ["5", "5"]}, "steps"),
    ],
)
def test_a_way_that_makes_no_sense_is_refused_at_its_field(
    change: dict[str, Any], field: str, shop: Any, browser: Browser
) -> None:
    answer = browser("bob").post("/apps/shop/deploy", {**FULL, **UNTOUCHED, **change})
    html = answer.content.decode()
    assert answer.status_code == 400
    assert f'id="id_{field}_error"' in html
    assert html.count('class="errors"') == 1
    assert '<details class="fold-inner how" open>' in html
    assert not Rollout.objects.exists()


def test_a_deploy_can_take_the_place_of_what_is_open(shop: Any, world: Any, browser: Browser) -> None:
    for _ in range(3):
        rollout_start(app=shop, version="1.0", by=world.alice)
    browser("bob").post("/apps/shop/deploy", {"version": "1.0", "supersede": "on"})
    assert list(Rollout.objects.order_by("number").values_list("status", flat=True)[:3]) == ["superseded"] * 3
    assert Rollout.objects.get(number=4).status in ("pending", "progressing")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("version", "9.9", "versions.not_found"),
        ("health_path", "no-slash", "releases.invalid"),
        ("health_path", "/a\tb", "releases.invalid"),
        ("health_statuses", "all", "releases.invalid"),
        ("health_statuses", "200-999", "releases.invalid"),
        ("health_timeout", "5", "releases.invalid"),
        ("health_interval", "0", ""),
        ("health_failures", "21", ""),
        ("on_failure", "explode", ""),
        ("stop_signal", "SIGSTOP", ""),
        ("env_secrets", "9X=1", "releases.invalid"),
        ("env_secrets", "PORT=1", "releases.invalid"),
        ("env_secrets", "A=1\nA=2", "releases.invalid"),
        ("env_secrets", "A='open", "releases.invalid"),
        ("env_secrets", "just words", "releases.invalid"),
        ("memory_mb", "9999999", "releases.invalid"),
        ("instances", "501", ""),
        ("instances", "0", ""),
        ("container_port", "70000", ""),
        ("cpu", "0", ""),
        ("version", "", ""),
    ],
)
def test_a_refusal_stands_at_its_field_and_nothing_is_done(
    field: str, value: str, code: str, shop: Any, browser: Browser
) -> None:
    answer = browser("alice").post("/apps/shop/deploy", {**FULL, "health_kind": "network", field: value})
    assert answer.status_code in (400, 404)
    html = answer.content.decode()
    assert f'id="id_{field}_error"' in html
    assert html.count('class="errors"') == 1
    assert code in html
    assert not Release.objects.exists()
    assert not Instance.objects.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"memory_mb": "8000"}, "quota.exceeded"),
        ({"memory_mb": "3000", "instances": "1"}, "placement.no_host"),
    ],
)
def test_no_room_is_told_and_nothing_is_claimed(
    change: dict[str, str], code: str, shop: Any, world: Any, browser: Browser
) -> None:
    from apps.hosts.models import Host

    Host.objects.update(memory_mb=1024)
    answer = browser("alice").post("/apps/shop/deploy", {**FULL, **change})
    assert answer.status_code == 409
    assert code in words(answer.content)
    world.acme.quota.refresh_from_db()
    assert world.acme.quota.memory_mb_used == 0
    # What was typed is still there.
    assert f'value="{change["memory_mb"]}"' in answer.content.decode()


def test_a_second_rollout_waits_behind_the_one_that_is_open(shop: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    answer = browser("bob").post("/apps/shop/deploy", {"version": "1.0"}, follow=True)
    assert "Rollout 2 waits behind 1 other." in words(answer.content)


def test_undeploy_asks_first_then_does_it(shop: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    client = browser("bob")
    asked = client.get("/apps/shop/undeploy")
    assert "Take shop down? 1 instance is stopped and removed." in words(asked.content)
    assert Rollout.objects.count() == 1
    done = client.post("/apps/shop/undeploy", follow=True)
    text = words(done.content)
    assert "shop is being taken down." in text
    assert "undeploying" in text


def test_cancelling_asks_first_then_does_it_and_is_told_when_it_is_too_late(
    shop: Any, world: Any, browser: Browser
) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    client = browser("bob")
    assert "Cancel rollout 1?" in words(client.get("/apps/shop/rollouts/1/cancel").content)
    assert Rollout.objects.get().status == "progressing"
    text = words(client.post("/apps/shop/rollouts/1/cancel", follow=True).content)
    assert "Rollout 1 is cancelled." in text
    assert Rollout.objects.get().status == "cancelled"
    again = words(client.post("/apps/shop/rollouts/1/cancel", follow=True).content)
    assert "has ended already" in again


def test_undeploying_what_does_not_run_is_told(shop: Any, browser: Browser) -> None:
    answer = browser("alice").post("/apps/shop/undeploy", follow=True)
    assert "runs nothing that could be undeployed" in words(answer.content)


def test_the_form_offers_a_version_that_was_asked_for_but_is_gone() -> None:
    form = DeployForm({"version": "gone"}, versions=["1.0"])
    assert '<option value="gone" selected>' in str(form["version"])
