"""The page of an app's host names."""

from __future__ import annotations

from typing import Any

import pytest

from apps.core.clock import now
from apps.deployments.models import Domain, DomainName
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PAGE = "/apps/shop/domains"


@pytest.fixture
def named(shop: Any, browser: Browser) -> Domain:
    answer = browser("alice").post(PAGE, {"name": "Bücher.Example.com", "path": "/"}, follow=True)
    assert "Put one of the records of xn--bcher-kva.example.com into DNS now." in words(answer.content)
    return Domain.objects.get(is_platform=False)


def test_the_page_says_what_to_put_into_dns_and_how_the_name_is_written(named: Domain, browser: Browser) -> None:
    assert named.held is not None
    answer = browser("vera").get(PAGE)
    text = words(answer.content)
    assert "As people write it: bücher.example.com" in text
    assert "waiting for its proof" in text
    for part in ("_berth-challenge.xn--bcher-kva.example.com", named.held.record_value, "shop.localhost"):
        assert part in text
    assert "Look now" not in text
    assert "Owners and admins of the tenant add names." in text
    assert (offences(answer.content), unlabelled(answer.content)) == ([], [])
    assert b'hx-select="#domains"' in answer.content


def test_what_was_seen_in_dns_is_said_in_words(named: Domain, browser: Browser) -> None:
    DomainName.objects.update(code="domains.proof_wrong", checked_at=now(), failures=1)
    assert "The TXT record is there with another value." in words(browser("alice").get(PAGE).content)
    DomainName.objects.update(status="proven", code="", proven_at=now())
    text = words(browser("alice").get(PAGE).content)
    assert "routes" in text
    assert "_berth-challenge" not in text
    DomainName.objects.update(missing_since=now())
    text = words(browser("alice").get(PAGE).content)
    assert "routes, proof gone" in text
    assert "_berth-challenge" in text


def test_a_look_is_asked_for_and_a_name_given_back(named: Domain, browser: Browser) -> None:
    alice = browser("alice")
    assert "The platform is looking." in words(alice.post(f"{PAGE}/{named.pk}/check", follow=True).content)
    gone = alice.post(f"{PAGE}/{named.pk}/remove", follow=True)
    assert "does not lead to this app any more" in words(gone.content)
    assert not DomainName.objects.exists()
    own = Domain.objects.get()
    assert "stays with its app" in words(alice.post(f"{PAGE}/{own.pk}/remove", follow=True).content)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"name": "a b"}, "is no host name"),
        ({"name": "x.localhost"}, "for special use"),
        ({"name": "www.example.com", "path": "/.."}, "is no prefix"),
        ({"name": "<script>alert(1)</script>"}, "is no host name"),
    ],
)
def test_what_can_not_be_had_is_said_where_it_was_typed(
    shop: Any, browser: Browser, typed: dict[str, str], said: str
) -> None:
    answer = browser("alice").post(PAGE, {"path": "/", **typed})
    assert answer.status_code == 400
    assert said in words(answer.content)
    assert b"<script>alert" not in answer.content
    assert not DomainName.objects.exists()


def test_the_app_s_page_leads_there(shop: Any, browser: Browser) -> None:
    assert f'href="{PAGE}"'.encode() in browser("vera").get("/apps/shop/").content
