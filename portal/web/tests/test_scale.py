"""Scale by hand, and an app that sleeps."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.models import Instance, ReplicaSet
from apps.deployments.services.rollouts import rollout_start
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, words

PEOPLE = ("alice", "bob", "vera", "charlie", "")


@pytest.fixture
def serving(shop: Any, world: Any, loop: Any) -> Any:
    rollout_start(app=shop, version="1.0", by=world.alice, instances=2)
    loop.settle()
    return shop


def wanted() -> int:
    return ReplicaSet.objects.get().wanted


def test_each_person_may_scale_as_the_role_allows(serving: Any, browser: Browser) -> None:
    got = tuple(browser(name).post("/apps/shop/scale", {"scale_to": "3"}).status_code for name in PEOPLE)
    assert got == (302, 302, 403, 404, 302)
    got = tuple(browser(name).get("/apps/shop/scale").status_code for name in PEOPLE)
    assert got == (302, 302, 302, 404, 302)
    assert (b'id="scale-form"' in browser("bob").get("/apps/shop/").content) is True
    assert (b'id="scale-form"' in browser("vera").get("/apps/shop/").content) is False


def test_up_and_down(serving: Any, loop: Any, browser: Browser) -> None:
    client = browser("bob")
    assert 'name="scale_to" value="2"' in client.get("/apps/shop/").content.decode()
    done = client.post("/apps/shop/scale", {"scale_to": "5"}, follow=True)
    assert done.redirect_chain == [("/apps/shop/", 302)]
    assert "5 instances of shop are wanted now." in words(done.content)
    loop.settle()
    assert Instance.objects.filter(status="healthy", released=False).count() == 5
    client.post("/apps/shop/scale", {"scale_to": "1"})
    loop.settle()
    assert Instance.objects.filter(released=False).count() == 1


def test_zero_puts_it_to_sleep_and_one_wakes_it(serving: Any, loop: Any, browser: Browser) -> None:
    client = browser("alice")
    done = client.post("/apps/shop/scale", {"scale_to": "0"}, follow=True)
    assert "shop goes to sleep: no instance is wanted now." in words(done.content)
    loop.settle()
    page = words(client.get("/apps/shop/").content)
    assert "asleep http://shop.localhost/ — says that the app is asleep." in page
    assert "Nothing runs: the app is scaled to zero." in page
    assert "shop asleep 1.0 — http://shop.localhost/" in words(client.get("/").content)
    assert "1 asleep 1.0" in words(client.get("/apps/shop/releases/").content)
    assert 'name="scale_to" value="0"' in client.get("/apps/shop/").content.decode()
    client.post("/apps/shop/scale", {"scale_to": "1"})
    loop.settle()
    assert "running 1 of 1 ready" in words(client.get("/apps/shop/").content)


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [("", 400, ""), ("501", 400, ""), ("-1", 400, ""), ("many", 400, ""), ("400", 409, "quota.exceeded")],
)
def test_a_refusal_stands_at_the_field(asked: str, status: int, code: str, serving: Any, browser: Browser) -> None:
    answer = browser("alice").post("/apps/shop/scale", {"scale_to": asked})
    html = answer.content.decode()
    assert answer.status_code == status
    assert 'id="id_scale_to_error"' in html
    assert html.count('class="errors"') == 1
    assert code in html
    assert offences(answer.content) == []
    assert wanted() == 2


def test_no_room_leads_to_where_it_would_run(serving: Any, browser: Browser) -> None:
    from apps.hosts.models import Host

    Host.objects.update(memory_mb=600)
    answer = browser("alice").post("/apps/shop/scale", {"scale_to": "6"})
    told = words(answer.content)
    assert (answer.status_code, "placement.no_host" in told) == (409, True)
    assert "Where would it run?" in told
    assert wanted() == 2


def test_beside_a_rollout_it_is_refused(serving: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=serving, version="1.0", by=world.alice)
    answer = browser("alice").post("/apps/shop/scale", {"scale_to": "3"})
    assert answer.status_code == 409
    assert "rollouts.in_progress" in words(answer.content)
    assert 'id="id_scale_to_error"' in answer.content.decode()


def test_what_was_never_deployed_has_nothing_to_scale(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    assert b'id="scale-form"' not in client.get("/apps/shop/").content
    answer = client.post("/apps/shop/scale", {"scale_to": "1"})
    assert answer.status_code == 409
    assert "apps.not_deployed" in words(answer.content)
    assert b'id="scale-form"' in answer.content
