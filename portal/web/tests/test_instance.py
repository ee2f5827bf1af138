"""The page that says why an instance ended."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.models import FailureCapsule, Instance, NoLog, Rollout
from apps.deployments.services.rollouts import rollout_start
from portal.web import texts
from portal.web.tests.conftest import Browser, instances_add
from portal.web.tests.pages import offences, unlabelled, words

Status = Instance.Status


@pytest.fixture
def ended(world: Any, shop: Any) -> Instance:
    instances_add(world, shop, 1)
    Instance.objects.update(status=Status.FAILED, released=True, code="instance.exited", reason="It ended by itself.")
    return Instance.objects.get()


def keep(instance: Instance, **values: Any) -> None:
    FailureCapsule.objects.create(
        instance=instance, **{"code": "instance.exited", "reason": "It ended by itself.", **values}
    )


def path(instance: Instance) -> str:
    return f"/apps/shop/instances/{instance.uid}/"


def page(browser: Browser, instance: Instance) -> str:
    answer = browser("vera").get(path(instance))
    assert answer.status_code == 200
    assert offences(answer.content) == []
    assert unlabelled(answer.content) == []
    return words(answer.content)


def test_members_see_it_and_strangers_do_not(ended: Instance, browser: Browser) -> None:
    keep(ended)
    got = [browser(name).get(path(ended)).status_code for name in ("alice", "bob", "vera", "charlie", "")]
    assert got == [200, 200, 200, 404, 302]


def test_an_instance_of_another_app_is_not_below_this_one(world: Any, ended: Instance, browser: Browser) -> None:
    world.app("blog")
    assert browser("alice").get(path(ended).replace("/shop/", "/blog/")).status_code == 404


def test_a_capsule_is_told_whole_and_the_log_is_text(ended: Instance, browser: Browser) -> None:
    keep(
        ended,
        exit_code=137,
        signal="SIGKILL",
        log="<script>alert(1)</script>\nboom\n",
        log_truncated=True,
        last_check="GET /_ping: it answered 500",
    )
    told = page(browser, ended)
    for part in (
        f"Why did {ended.short_id} end?",
        "It ended by itself. instance.exited",
        "137 SIGKILL",
        "It was killed from outside.",
        "GET /_ping: it answered 500",
        "It wrote more before these.",
        "<script>alert(1)</script> boom",
    ):
        assert part in told
    assert b"&lt;script&gt;" in browser("vera").get(path(ended)).content


def test_what_to_do_is_said_once(ended: Instance, browser: Browser) -> None:
    keep(ended, code="image.not_found", reason="It could not be started: manifest unknown")
    told = page(browser, ended)
    assert f"What to do {texts.CODES['image.not_found']}" in told
    FailureCapsule.objects.update(code="host.lost", reason="Its host 10.0.0.1 does not answer any more.")
    told = page(browser, ended)
    assert told.count(str(texts.CODES["host.lost"])) == 1
    assert "10.0.0.1" not in told


def test_one_that_was_started_anew_says_so(ended: Instance, browser: Browser) -> None:
    keep(ended, exit_code=1)
    assert "started anew" not in page(browser, ended)
    Instance.objects.update(status=Status.HEALTHY, released=False)
    assert "It was started anew where it is since." in page(browser, ended)


def test_memory_that_ran_out_is_told_with_the_limit(ended: Instance, browser: Browser) -> None:
    keep(ended, code="instance.out_of_memory", exit_code=137, signal="SIGKILL", out_of_memory=True, log="x")
    told = page(browser, ended)
    assert "It reached its limit of 256 MiB." in told
    assert str(texts.OUT_OF_MEMORY) in told
    assert "killed from outside" not in told


@pytest.mark.parametrize("missing", list(NoLog))
def test_a_log_that_is_missing_is_explained(ended: Instance, browser: Browser, missing: NoLog) -> None:
    keep(ended, log_missing=missing)
    assert str(missing) in page(browser, ended)


@pytest.mark.parametrize(
    ("status", "released", "says"),
    [
        (Status.HEALTHY, False, "It has not ended."),
        (Status.STOPPED, True, "It was stopped because it was not wanted any more"),
        (Status.FAILED, False, "Reload this page in a moment."),
        (Status.FAILED, True, "More is not kept any longer: 14 days"),
    ],
)
def test_without_a_capsule_the_page_says_why_there_is_none(
    ended: Instance, browser: Browser, status: str, released: bool, says: str
) -> None:
    Instance.objects.update(status=status, released=released)
    assert says in page(browser, ended)


def test_every_reason_without_a_log_has_words_that_are_the_same_in_english() -> None:
    assert {str(reason): str(words) for reason, words in texts.NO_LOGS.items()} == {str(one): str(one) for one in NoLog}


def test_the_app_page_leads_there_from_its_instances(ended: Instance, browser: Browser) -> None:
    html = browser("vera").get("/apps/shop/").content.decode()
    assert html.count(f'href="{path(ended)}"') == 2
    assert "Why did it end?" in html


def test_a_failed_rollout_leads_to_the_last_of_its_instances_that_ended(
    world: Any, shop: Any, browser: Browser
) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice, instances=2)
    first, last = Instance.objects.order_by("pk")
    Instance.objects.update(status=Status.FAILED, code="instance.exited")
    Rollout.objects.update(status=Rollout.Status.FAILED, code="instance.exited", reason="It ended.")
    assert 'id="culprit"' not in browser("vera").get("/apps/shop/").content.decode()
    keep(first)
    html = browser("vera").get("/apps/shop/").content.decode()
    assert f'id="culprit" href="{path(first)}"' in html
    assert path(last) in html
    Rollout.objects.update(status=Rollout.Status.ROLLED_BACK)
    html = browser("vera").get("/apps/shop/").content.decode()
    assert f'id="rollout-culprit" href="{path(first)}"' in html
