"""Releases: the list, what differs, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.deployments.models import Release, Rollout
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start, undeploy
from apps.deployments.services.strategies import Options
from portal.web.tests.conftest import Browser, instances_add
from portal.web.tests.pages import offences, unlabelled, words

PEOPLE = ("alice", "bob", "vera", "charlie", "")
FIRST = ReleaseSettings(
    settings={"LOG_LEVEL": "info", "GONE": "soon"}, secrets={"PASSWORD": "do-not-show"}, memory_mb=128
)
SECOND = ReleaseSettings(
    settings={"LOG_LEVEL": "debug", "GONE": None}, secrets={"PASSWORD": "nor-this"}, memory_mb=256, cpu_millis=250
)


@pytest.fixture
def twice(shop: Any, world: Any, loop: Any) -> Any:
    """Release 2 serves; release 1 served before."""
    rollout_start(app=shop, version="1.0", by=world.alice, instances=2, settings_=FIRST)
    loop.settle()
    world.push(shop, "2.0", "b" * 64)
    rollout_start(app=shop, version="2.0", by=world.bob, settings_=SECOND, options=Options(judge_s=0))
    loop.settle(20)
    assert Rollout.objects.get(number=2).status == "succeeded"
    return shop


def test_each_person_gets_of_the_releases_what_the_role_allows(twice: Any, browser: Browser) -> None:
    expected = {
        "/apps/shop/releases/": (200, 200, 200, 404, 302),
        "/apps/shop/releases/diff": (200, 200, 200, 404, 302),
        "/apps/shop/releases/diff?old=1&new=2": (200, 200, 200, 404, 302),
        "/apps/shop/releases/diff?old=1&new=9": (404, 404, 404, 404, 302),
        "/apps/shop/releases/diff?old=-1": (404, 404, 404, 404, 302),
        "/apps/shop/releases/diff?old=99999999999999999999": (404, 404, 404, 404, 302),
        "/apps/shop/releases/1/rollback": (200, 200, 403, 404, 302),
        "/apps/shop/releases/9/rollback": (404, 404, 403, 404, 302),
    }
    for path, codes in expected.items():
        answers = [browser(name).get(path) for name in PEOPLE]
        assert tuple(one.status_code for one in answers) == codes, path
        assert [offences(one.content) for one in answers] == [[]] * len(PEOPLE)
        assert [unlabelled(one.content) for one in answers] == [[]] * len(PEOPLE)
    got = tuple(browser(name).post("/apps/shop/releases/9/rollback").status_code for name in PEOPLE)
    assert got == (404, 404, 403, 404, 302)


def test_the_list_says_what_each_changed_and_which_serves(twice: Any, browser: Browser) -> None:
    told = words(browser("vera").get("/apps/shop/releases/").content)
    assert "2 serves 2.0 Version 1.0 → 2.0, Memory (MiB) 128 → 256, and 2 more" in told
    assert "1 1.0 the first" in told
    assert "Go back…" not in told
    assert "Go back…" in words(browser("bob").get("/apps/shop/releases/").content)


def test_a_diff_shows_settings_and_only_names_secrets(twice: Any, browser: Browser) -> None:
    html = browser("vera").get("/apps/shop/releases/diff?old=1&new=2").content
    told = words(html)
    assert "LOG_LEVEL info debug" in told
    assert "PASSWORD (secret) (secret)" in told
    assert "GONE soon not there" in told
    assert "CPU (cores) 0.1 0.25" in told
    for path in ("", "diff?old=1&new=2", "diff?old=2&new=1", "1/rollback"):
        html = browser("alice").get(f"/apps/shop/releases/{path}").content
        assert b"do-not-show" not in html
        assert b"nor-this" not in html
    assert "Nothing: the two would run the same." in words(
        browser("vera").get("/apps/shop/releases/diff?old=1&new=1").content
    )


def test_going_back_is_shown_first_and_restores_all(twice: Any, loop: Any, browser: Browser) -> None:
    client = browser("bob")
    told = words(client.get("/apps/shop/releases/1/rollback").content)
    assert "Go back to release 1?" in told
    assert "LOG_LEVEL debug info" in told
    assert "GONE not there soon" in told
    assert Rollout.objects.count() == 2
    done = client.post("/apps/shop/releases/1/rollback", {"instances": "2"}, follow=True)
    assert done.redirect_chain == [("/apps/shop/rollouts/3/", 302)]
    assert "Rollout 3 takes the app back to what release 1 had." in words(done.content)
    release, old = Release.objects.get(number=3), Release.objects.get(number=1)
    for name in ("env", "env_readable", "version_id", "memory_mb", "cpu_millis"):
        assert getattr(release, name) == getattr(old, name)
    rollout = Rollout.objects.get(number=3)
    assert (rollout.kind, rollout.created_by, rollout.instances) == ("rollback", "bob", 2)


def test_a_way_back_takes_the_strategy_that_was_asked_for(twice: Any, browser: Browser) -> None:
    browser("bob").post("/apps/shop/releases/1/rollback", {"strategy": "blue_green", "keep_s": "60"})
    assert Rollout.objects.values_list("strategy", "keep_s").get(number=3) == ("blue_green", 60)


def test_what_runs_already_needs_no_way_back(twice: Any, world: Any, loop: Any, browser: Browser) -> None:
    html = browser("alice").get("/apps/shop/releases/2/rollback").content
    assert "There is nothing to do." in words(html)
    assert b'method="post" class="card"' not in html
    undeploy(app=twice, by=world.alice)
    loop.settle()
    html = browser("alice").get("/apps/shop/releases/2/rollback").content
    assert "it does not run now, and would be started" in words(html)
    assert b'method="post" class="card"' in html


def test_a_refused_way_back_says_why_in_its_place(twice: Any, browser: Browser) -> None:
    client = browser("alice")
    for data, status, field, words_ in (
        ({"instances": "0"}, 400, "instances", ""),
        ({"strategy": "canary", "steps_weight": ["50", "10"]}, 400, "steps", "rollouts.invalid"),
        ({"strategy": "rolling", "max_surge": "0", "max_unavailable": "0"}, 400, "max_surge", "rollouts.invalid"),
        ({"instances": "400"}, 409, "", "quota.exceeded"),
    ):
        answer = client.post("/apps/shop/releases/1/rollback", data)
        assert answer.status_code == status, data
        assert not field or f'id="id_{field}_error"' in answer.content.decode(), data
        assert words_ in words(answer.content)
    assert Rollout.objects.count() == 2


def test_no_releases_yet(shop: Any, browser: Browser) -> None:
    assert "The first deploy makes the first release." in words(browser("vera").get("/apps/shop/releases/").content)
    assert browser("vera").get("/apps/shop/releases/diff").status_code == 404


def test_the_list_comes_in_pages_and_in_few_queries(twice: Any, world: Any, browser: Browser) -> None:
    client = browser("alice")
    client.get("/apps/shop/releases/")
    with CaptureQueriesContext(connection) as few:
        client.get("/apps/shop/releases/")
    for _ in range(25):
        instances_add(world, twice, 1)
    with CaptureQueriesContext(connection) as more:
        html = client.get("/apps/shop/releases/").content
    assert "Page 1 of 2" in words(html)
    assert len(more) <= len(few) + 1, "one for the release before the page's last"
    assert b"do-not-show" not in html
