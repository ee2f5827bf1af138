"""The deploy form: from what was typed to a release, and each refusal in its place."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.checks import readiness_of
from apps.deployments.models import Instance, Release, Rollout
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
    "env": 'GREETING=\'hello\nworld\'\nexport EMPTY=\n# a remark\nQUOTED="a \\"b\\"\\n"',
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
        ("env", "9X=1", "releases.invalid"),
        ("env", "PORT=1", "releases.invalid"),
        ("env", "A=1\nA=2", "releases.invalid"),
        ("env", "A='open", "releases.invalid"),
        ("env", "just words", "releases.invalid"),
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
