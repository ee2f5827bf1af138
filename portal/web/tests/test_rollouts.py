"""A rollout's page: what it says at each point, and what each button does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.core.clock import now
from apps.deployments.models import Instance, Rollout
from apps.deployments.services.instances import instance_fail
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start, undeploy
from apps.deployments.services.strategies import Options
from portal.web.rollout_words import step_words
from portal.web.rollouts import RolloutPage, rollout_to_show
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PEOPLE = ("alice", "bob", "vera", "charlie", "")
CANARY = Options(strategy="canary", steps=[{"weight": 10, "pause_s": None}, {"weight": 50, "pause_s": 60}], judge_s=0)
KEPT = Options(strategy="blue_green", keep_s=300, judge_s=0)


@pytest.fixture
def serving(shop: Any, world: Any, loop: Any) -> Any:
    """Version 1.0 serves with four instances, and 2.0 is there."""
    rollout_start(
        app=shop, version="1.0", by=world.alice, instances=4, settings_=ReleaseSettings(env={"KEY": "do-not-show"})
    )
    loop.settle()
    world.push(shop, "2.0", "b" * 64)
    return shop


def start(app: Any, world: Any, options: Options | None = None, version: str = "2.0") -> Rollout:
    return rollout_start(app=app, version=version, by=world.alice, options=options)


def text(browser: Browser, number: int, name: str = "alice") -> str:
    return words(browser(name).get(f"/apps/shop/rollouts/{number}/").content)


def test_each_person_gets_of_a_rollout_what_the_role_allows(serving: Any, world: Any, browser: Browser) -> None:
    start(serving, world, CANARY)
    expected = {
        "": (200, 200, 200, 404, 302),
        "live": (200, 200, 200, 404, 302),
        "pause": (405, 405, 405, 405, 405),
        "continue": (405, 405, 405, 405, 405),
    }
    for page, codes in expected.items():
        got = tuple(browser(name).get(f"/apps/shop/rollouts/2/{page}").status_code for name in PEOPLE)
        assert got == codes, page
    for action, codes in {"pause": (302, 302, 403, 404, 302), "continue": (302, 302, 403, 404, 302)}.items():
        got = tuple(browser(name).post(f"/apps/shop/rollouts/2/{action}").status_code for name in PEOPLE)
        assert got == codes, action
    html = browser("alice").get("/apps/shop/rollouts/2/").content
    assert offences(html) == []
    assert unlabelled(html) == []


def test_a_viewer_is_offered_no_buttons(serving: Any, world: Any, browser: Browser) -> None:
    start(serving, world, CANARY)
    for name, may in (("alice", True), ("vera", False)):
        html = browser(name).get("/apps/shop/rollouts/2/").content
        for button in (b"/rollouts/2/pause", b"/rollouts/2/cancel", b'id="act"'):
            assert (button in html) is may, button


def test_the_page_says_where_a_canary_is_and_the_buttons_move_it(
    serving: Any, world: Any, loop: Any, browser: Browser
) -> None:
    start(serving, world, CANARY)
    assert "Bringing up the new version in progress It waits for 1 new instance to become ready." in text(browser, 2)
    loop.settle(5)
    told = text(browser, 2)
    assert "The new version is in traffic paused It waits for somebody to continue it." in told
    assert "New: 1 of 4 ready Old: 4 left Step 1 of 2" in told
    assert "2.0 (release 2) 10 % 1.0 (release 1) 90 %" in told
    assert "The new version gets 10 % of the traffic" in told
    client = browser("bob")
    done = client.post("/apps/shop/rollouts/2/continue", follow=True)
    assert done.redirect_chain == [("/apps/shop/rollouts/2/", 302)]
    assert "Rollout 2 goes on." in words(done.content)
    assert Rollout.objects.get(number=2).step == 1
    assert "Rollout 2 is paused." in words(client.post("/apps/shop/rollouts/2/pause", follow=True).content)
    assert Rollout.objects.get(number=2).status == "paused"
    client.post("/apps/shop/rollouts/2/continue")
    loop.settle(5)
    told = text(browser, 2)
    assert re.search(r"It rests at this step; then it goes on by itself\. \d+ seconds to go\.", told), told[200:600]
    assert "New: 2 of 4 ready Old: 4 left Step 2 of 2" in told


def test_what_cant_be_done_any_more_is_told(serving: Any, browser: Browser) -> None:
    client = browser("bob")
    for action in ("pause", "continue"):
        told = words(client.post(f"/apps/shop/rollouts/1/{action}", follow=True).content)
        assert "has ended already" in told
        assert client.post(f"/apps/shop/rollouts/9/{action}").status_code == 404


def test_a_kept_old_version_can_be_switched_back_to_or_let_go(
    serving: Any, world: Any, loop: Any, browser: Browser
) -> None:
    start(serving, world, KEPT)
    loop.settle(8)
    html = browser("alice").get("/apps/shop/rollouts/2/").content
    assert "The old one is kept, so that you can switch back at once. 4 minutes to go." in words(html)
    assert "Let the old version go Switch back…" in words(html)
    assert b"/rollouts/2/pause" not in html
    asked = words(browser("alice").get("/apps/shop/rollouts/2/cancel").content)
    assert "The traffic goes back to the old version at once." in asked
    browser("alice").post("/apps/shop/rollouts/2/continue")
    loop.settle(8)
    told = text(browser, 2)
    assert "It has ended succeeded Go back to release 1…" in told
    assert "No gateway could tell what it saw meanwhile." in told
    assert "stop and be removed" in told
    assert "Go back to release 1" not in text(browser, 2, "vera")


def test_verdict_and_report_stand_with_their_numbers(serving: Any, world: Any, loop: Any, browser: Browser) -> None:
    start(serving, world, Options(judge_s=0))
    loop.settle(20)
    seen = {"new": {"requests": 1200, "errors_5xx": 400, "p95_ms": 12.4}, "old": {"requests": 3600, "errors_5xx": 1}}
    rows = Rollout.objects.filter(number=2)
    rows.update(
        evidence={"verdict": seen},
        code="rollout.unhealthier",
        reason="A third of its answers were errors.",
        status="rolled_back",
        report={"traffic": {"requests": 10432, "errors_5xx": 401, "unserved": 0, "broken": 0}},
    )
    told = text(browser, 2)
    assert "The new version did worse, so it was rolled back." in told
    assert "New version 1200 400 12 ms Old version 3600 1 —" in told
    assert "A third of its answers were errors. rollout.unhealthier" in told
    assert "Requests 10432 Answered with 500 to 599 401" in told
    rows.update(evidence={"judged": {**seen, "enough": False}}, code="", status="succeeded")
    told = text(browser, 2)
    assert "There were too few requests to tell the two versions apart." in told
    assert "there were at least as many" not in told
    rows.update(
        evidence={"judged": {**seen, "enough": False, "unknown": "No gateway could tell."}},
        report={"traffic": {"requests": 9, "complete": False}},
    )
    told = text(browser, 2)
    assert "No gateway could tell how the two versions answered." in told
    assert "there were at least as many" in told


def test_a_failed_one_names_what_failed(serving: Any, world: Any, loop: Any, browser: Browser) -> None:
    rollout = start(serving, world)
    for _ in range(3):
        for one in Instance.objects.filter(replica_set_id=rollout.target_id, released=False):
            why = "Its process ended by itself with exit code 3."
            instance_fail(instance=one, code="instance.exited", reason=why, exit_code=3)
        loop.settle(2)
    loop.settle(3)
    told = text(browser, 2, "vera")
    assert "rolled back Its process ended by itself with exit code 3. instance.exited" in told
    assert Instance.objects.filter(code="instance.exited").first().short_id in told
    assert "It ended before the two were compared." in told
    app_page = words(browser("vera").get("/apps/shop/").content)
    assert "The rollout of 2.0 (release 2) was rolled back." in app_page
    assert "running" in app_page


def test_an_undeploy_has_no_switch(serving: Any, world: Any, loop: Any, browser: Browser) -> None:
    undeploy(app=serving, by=world.alice)
    told = text(browser, 2)
    assert "undeploy just now · alice Taking the old version down in progress 4 instances are to be removed." in told
    assert "An undeploy switches nothing" in told
    assert "Verdict" not in told
    assert b"/cancel" not in browser("alice").get("/apps/shop/rollouts/2/").content
    loop.settle(8)
    assert "It has ended succeeded" in text(browser, 2)


def test_the_queue_is_shown_with_positions_and_what_is_under_way_stands_first(
    serving: Any, world: Any, loop: Any, browser: Browser
) -> None:
    start(serving, world, CANARY)
    for _ in range(9):
        start(serving, world)
    told = words(browser("alice").get("/apps/shop/").content)
    assert "Rolling out 2.0 as release 2." in told
    assert "Waiting rollouts 1. Rollout 3 2.0 just now · alice · Cancel 2. Rollout 4" in told
    assert "9. Rollout 11" in told
    assert "· Cancel" not in words(browser("vera").get("/apps/shop/").content)
    assert "deploying" in words(browser("alice").get("/").content)
    told = text(browser, 5)
    assert "In the queue waiting It waits behind 3 other rollouts of the app." in told
    Rollout.objects.filter(number=11).update(status="cancelled", ended_at=now())
    for path in ("/", "/apps/shop/"):
        assert "deploying" in words(browser("alice").get(path).content), "the newest has ended, another is open"


def test_the_live_part_asks_again_until_it_has_ended(serving: Any, world: Any, loop: Any, browser: Browser) -> None:
    start(serving, world, Options(judge_s=0))
    client = browser("alice")
    assert 'hx-get="/apps/shop/rollouts/2/live" hx-trigger="every 2s"' in (
        client.get("/apps/shop/rollouts/2/").content.decode()
    )
    live = client.get("/apps/shop/rollouts/2/live")
    assert (live.status_code, b"<form" in live.content, b"csrfmiddlewaretoken" in live.content) == (200, False, False)
    assert b'form="act"' in live.content
    loop.settle(20)
    assert client.get("/apps/shop/rollouts/2/live").status_code == 286
    assert b"hx-get" not in client.get("/apps/shop/rollouts/2/").content


def test_the_page_takes_few_queries_and_shows_neither_hosts_nor_secrets(
    serving: Any, world: Any, loop: Any, browser: Browser
) -> None:
    start(serving, world, CANARY)
    loop.settle(5)
    client = browser("alice")
    client.get("/apps/shop/rollouts/2/live")
    with CaptureQueriesContext(connection) as captured:
        html = client.get("/apps/shop/rollouts/2/").content
    assert len(captured) <= 22
    for hidden in (b"host-1", b"127.0.1.1", b"do-not-show"):
        assert hidden not in html


def test_a_wait_for_room_and_for_gateways_is_told(serving: Any, world: Any, loop: Any, discovery: Any) -> None:
    rollout = start(serving, world, Options(strategy="blue_green", judge_s=0))

    def waits() -> str:
        return RolloutPage(rollout_to_show(serving, rollout.number)).waits_for

    discovery.automatic = False
    loop.settle(6)
    assert waits() == "It waits for the gateways to confirm the new route."
    Instance.objects.filter(replica_set_id=rollout.target_id).update(released=True, status="stopped")
    rollout.target.retry_at = now()
    rollout.target.save()
    assert waits() == "It waits for room on the hosts; the platform tries again by itself."


def test_every_mark_of_a_timeline_has_words(serving: Any, world: Any, loop: Any) -> None:
    for options in (CANARY, KEPT, Options(strategy="in_place", judge_s=1), Options(max_surge=2, judge_s=1)):
        rollout = start(serving, world, options)
        for _ in range(25):
            loop.step()
            Rollout.objects.filter(status="paused").update(status="progressing")
        marks = {one["step"] for one in Rollout.objects.get(pk=rollout.pk).timeline}
        assert {"asked", "began"} < marks
        assert [mark for mark in marks if step_words(mark) == mark] == []
        Rollout.objects.filter(pk=rollout.pk, ended_at=None).update(status="cancelled", ended_at=now())
        loop.settle(2)
    assert step_words("25 % of the traffic") == "The new version gets 25 % of the traffic"
    assert step_words("something new") == "something new"
