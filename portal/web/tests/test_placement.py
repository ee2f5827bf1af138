"""The page "Where would it run?", and what is kept of refused deploys."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import translation

from apps.deployments.api.placements import ExplainThrottle
from apps.deployments.models import Explanation, Instance, Release, ReplicaSet
from apps.deployments.scheduler import filters, weighers
from apps.deployments.scheduler.constraints import parse
from apps.deployments.scheduler.types import Candidate, Request, Rules
from apps.hosts.models import Host
from portal.web import texts
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PAGE = "/apps/shop/placement"
SMALL = {"instances": "2", "memory_mb": "64", "cpu": "0.1"}


def _kept(shop: Any, browser: Browser) -> Any:
    """A deploy that was refused, as its answer came."""
    Host.objects.update(memory_mb=100)
    return browser("bob").post("/apps/shop/deploy", {"version": "1.0", "memory_mb": "512", "instances": "1"})


def test_the_form_is_filled_with_what_the_last_release_has(shop: Any, world: Any, browser: Browser) -> None:
    rules = {"constraints": ["disk == ssd", "gpu exists"], "anti_affinity": "hard"}
    release = Release.objects.create(
        app=shop, number=1, version=world.push(shop), memory_mb=96, cpu_millis=250, placement=rules
    )
    ReplicaSet.objects.create(app=shop, release=release, wanted=3)
    html = browser("vera").get(PAGE).content.decode()
    for part in ('value="3"', 'value="96"', 'value="0.25"', "disk == ssd\ngpu exists", "checked", "Nothing asked yet"):
        assert part in html
    assert 'href="/apps/shop/placement"' in browser("vera").get("/apps/shop/").content.decode()


def test_the_answer_shows_chosen_hosts_with_bars_and_refused_ones_by_reason(
    shop: Any, world: Any, browser: Browser
) -> None:
    for values in ({"memory_mb": 32}, {"memory_mb": 32}, {"availability": "cordoned"}, {"labels": {"zone": "b"}}):
        world.host(**values)
    answer = browser("vera").get(PAGE, SMALL)
    assert answer.status_code == 200
    text, html = words(answer.content), answer.content.decode()
    assert "It would run. 2 of 2 instances of 64 MiB and 0.1 CPU find a host. 2 of 5 hosts take at least one." in text
    assert "not enough memory 2 hosts" in text
    assert "takes no new instances 1 host" in text
    assert "zone b" in text
    assert "Memory (MiB) 128 asked, 4096 left" in text
    assert html.count("<meter ") >= 6
    assert "host-1" not in html
    assert offences(answer.content) == unlabelled(answer.content) == []
    assert not Instance.objects.exists()


def test_who_asks_too_often_is_told_so_and_keeps_what_was_typed(
    shop: Any, world: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExplainThrottle, "rate", "1/min")
    client = browser("vera")
    assert client.get(PAGE, SMALL).status_code == 200
    answer = client.get(PAGE, SMALL)
    assert answer.status_code == 429
    assert "Too many dry runs within a minute" in words(answer.content)
    assert 'value="64"' in answer.content.decode()
    assert client.get(PAGE).status_code == 200, "the form alone costs nothing"


def test_operators_who_are_members_see_names(shop: Any, world: Any, browser: Browser) -> None:
    world.host(name="far-away", memory_mb=32)
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    text = words(browser("alice").get(PAGE, SMALL).content)
    assert "host-1" in text
    assert "far-away" in text


def test_hard_spread_and_rules_are_asked_for(shop: Any, browser: Browser) -> None:
    text = words(browser("bob").get(PAGE, {**SMALL, "hard": "on"}).content)
    assert "It would not run. 1 of 2 instances" in text
    assert "Hosts that take some and then no more: runs one of this release already (1)" in text
    text = words(browser("bob").get(PAGE, {**SMALL, "constraints": "disk == ssd\r\n\r\n"}).content)
    assert "its labels break the rule: disk == ssd 1 host" in text
    assert "None: no host takes even one." in text


def test_rules_without_a_field_stay_as_in_the_last_release(shop: Any, world: Any, browser: Browser) -> None:
    rules = {"min_engine": "99.0"}
    Release.objects.create(app=shop, number=1, version=world.push(shop), placement=rules)
    text = words(browser("bob").get(PAGE, SMALL).content)
    assert "engine 99.0 or newer" in text
    assert "its engine is older than 99.0 1 host" in text


def test_a_global_app_is_asked_for_without_a_number(shop: Any, world: Any, browser: Browser) -> None:
    Release.objects.create(app=shop, number=1, version=world.push(shop), placement={"global": True})
    answer = browser("bob").get(PAGE, {**SMALL, "instances": ""})
    assert "1 of 1 instances" in words(answer.content)
    refused = browser("bob").get(PAGE, SMALL)
    assert refused.status_code == 400
    assert 'id="id_instances_error"' in refused.content.decode()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("constraints", "disk is ssd", "placement.rules_invalid"),
        ("constraints", "\n".join(["a == b"] * 17), "placement.rules_invalid"),
        ("memory_mb", "99999999", "releases.invalid"),
        ("memory_mb", "1", ""),
        ("instances", "501", ""),
        ("instances", "x", ""),
        ("cpu", "0", ""),
    ],
)
def test_an_error_stands_at_its_field(field: str, value: str, code: str, shop: Any, browser: Browser) -> None:
    answer = browser("bob").get(PAGE, {**SMALL, field: value})
    assert answer.status_code == 400
    html = answer.content.decode()
    assert f'id="id_{field}_error"' in html
    assert html.count('class="errors"') == 1
    assert code in html


def test_a_cluster_without_hosts_and_an_empty_quota_are_told(world: Any, browser: Browser) -> None:
    world.app("shop")
    assert "The cluster has no hosts yet." in words(browser("bob").get(PAGE, SMALL).content)
    world.host()
    world.acme.quota.memory_mb = 0
    world.acme.quota.save()
    assert "The hosts have room, the quota has not." in words(browser("bob").get(PAGE, SMALL).content)


def test_a_refused_deploy_leads_to_its_explanation(shop: Any, browser: Browser) -> None:
    refused = _kept(shop, browser)
    kept = Explanation.objects.get()
    assert f'href="/apps/shop/placement/{kept.pk}"' in refused.content.decode()
    Host.objects.update(memory_mb=8192)
    answer = browser("vera").get(f"/apps/shop/placement/{kept.pk}")
    text = words(answer.content)
    assert "Why the deploy was refused" in text
    assert "placement.no_host" in text
    assert "not enough memory 1 host" in text
    assert "host-1" not in text
    assert "?instances=1&amp;memory_mb=512&amp;cpu=0.1" in answer.content.decode()
    assert f"/apps/shop/placement/{kept.pk}" in browser("vera").get(PAGE).content.decode()
    assert offences(answer.content) == []


def test_an_explanation_is_that_app_s_members_own(shop: Any, world: Any, browser: Browser) -> None:
    _kept(shop, browser)
    pk = Explanation.objects.get().pk
    world.app("other")
    world.app("theirs", tenant=world.rival, by=world.charlie)
    assert browser("charlie").get(f"/apps/shop/placement/{pk}").status_code == 404
    assert browser("charlie").get(f"/apps/theirs/placement/{pk}").status_code == 404
    assert browser("alice").get(f"/apps/other/placement/{pk}").status_code == 404
    assert browser("alice").get("/apps/shop/placement/999999").status_code == 404
    assert browser("").get(f"/apps/shop/placement/{pk}").status_code == 302


def test_every_reason_and_every_weigher_has_words() -> None:
    rules = Rules((parse("disk == ssd"),), ("db",), one_per_host=True, min_engine=24, min_engine_text="24.0")
    request = Request(memory_mb=64, cpu_millis=100, tenant_id=1, rules=rules)
    worst = Candidate(1, "h", status="lost", disk_pressure=True, dedicated_to=2, own_of_release=1, ports_free=0)
    held = [one for one in Host.Availability.values if one != Host.Availability.ACTIVE]
    hosts = [worst, *(Candidate(2, "h", availability=one) for one in held)]
    found = {reason for host in hosts for refuse in filters.FILTERS if (reason := refuse(host, request))}
    assert len(found) >= len(filters.FILTERS)
    begins = tuple(texts.REASONS_BEGIN)
    assert [one for one in found if one not in texts.REASONS and not one.startswith(begins)] == []
    named = {name for name, _, _ in (*weighers.OURS, *weighers.WEIGHERS)} | {weighers.ZONE}
    assert named == set(texts.WEIGHERS)
    with translation.override("en"):
        assert texts.reason_of_host("label: not disk == ssd") == "its labels break the rule: disk == ssd"
        assert texts.reason_of_host("something new") == "something new"
