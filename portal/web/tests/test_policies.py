"""The page of traffic rules: what each person may see and change, and what is said of what was typed."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.models import App, GatewayPolicy, GatewayPort, SignInPerson
from apps.deployments.services.policies import person_set, policy_set
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PAGE = "/apps/shop/policy"
RULES = {
    "https_only": "on",
    **dict.fromkeys(("hsts_seconds", "hold_s", "app_rate", "client_rate", "max_body_bytes"), "0"),
    "max_header_bytes": "0",
    "answer_timeout_s": "30",
    "allow": "10.1.0.0/16, 10.2.0.0/16\n2001:db8::/32",
    "deny": "",
}


def test_rules_are_kept_and_shown_again(shop: Any, browser: Browser) -> None:
    alice = browser("alice")
    assert "Gateways have them in a moment" in words(alice.post(PAGE, RULES, follow=True).content)
    row = GatewayPolicy.objects.get(app=shop)
    assert (row.https_only, row.answer_timeout_s) == (True, 30)
    assert row.allow == ["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"]
    html = alice.get(PAGE).content.decode()
    assert "10.1.0.0/16\n10.2.0.0/16\n2001:db8::/32" in html
    assert offences(html.encode()) == unlabelled(html.encode()) == []


@pytest.mark.parametrize(
    "wrong", [{"hold_s": "61"}, {"hold_s": ""}, {"max_header_bytes": "5"}, {"deny": "10.0.0.1/8"}, {"allow": "x"}]
)
def test_what_can_not_be_a_rule_is_shown_where_it_was_typed(shop: Any, browser: Browser, wrong: dict[str, str]) -> None:
    answer = browser("alice").post(PAGE, {**RULES, **wrong})
    assert answer.status_code == 400
    assert "Nothing was done." in words(answer.content)
    assert not GatewayPolicy.objects.exists()


def test_a_developer_changes_the_rules_and_leaves_who_is_let_in_as_it_is(
    shop: Any, world: Any, browser: Browser
) -> None:
    policy_set(app=shop, changes={"allow": ["10.9.0.0/16"]}, by=world.alice)
    bob = browser("bob")
    assert bob.post(PAGE, {**RULES, "allow": "", "deny": "10.0.0.1"}).status_code == 302
    row = GatewayPolicy.objects.get(app=shop)
    assert (row.answer_timeout_s, row.allow, row.deny) == (30, ["10.9.0.0/16"], [])
    assert "owners and admins of the tenant decide" in words(bob.get(PAGE).content)


def test_maintenance_is_one_button_and_stands_on_the_apps_page(shop: Any, browser: Browser) -> None:
    bob = browser("bob")
    assert "in maintenance" not in words(bob.get("/apps/shop/").content)
    answer = bob.post(f"{PAGE}/maintenance", {"on": "1"}, follow=True)
    assert "Visitors get the maintenance page now." in words(answer.content)
    for path in ("/apps/shop/", "/apps/shop/live"):
        assert "in maintenance" in words(browser("vera").get(path).content)
    bob.post(f"{PAGE}/maintenance", {"on": "0"})
    assert not GatewayPolicy.objects.get().maintenance


def test_people_are_let_in_and_taken_away_and_their_passwords_shown_to_nobody(shop: Any, browser: Browser) -> None:
    alice = browser("alice")
    assert "asks no visitor to sign in" in words(alice.get(PAGE).content)
    answer = alice.post(f"{PAGE}/people", {"name": "visitor", "password": "let me in please"}, follow=True)
    assert "visitor may sign in with this password now" in words(answer.content)
    assert b"let me in please" not in answer.content
    assert SignInPerson.objects.get().digest.encode() not in answer.content
    refused = alice.post(f"{PAGE}/people", {"name": "a:b", "password": "let me in please"})
    assert refused.status_code == 400
    assert b"let me in please" not in refused.content
    answer = alice.post(f"{PAGE}/people/visitor/remove", follow=True)
    assert "may not sign in any more" in words(answer.content)
    assert not SignInPerson.objects.exists()


def test_a_viewer_looks_at_the_rules_and_has_no_form(shop: Any, world: Any, browser: Browser) -> None:
    policy_set(app=shop, changes={"hold_s": 7}, by=world.alice)
    person_set(app=shop, name="visitor", password="let me in please", by=world.alice)
    answer = browser("vera").get(PAGE)
    text = words(answer.content)
    assert "Wait for an instance (s) 7" in text
    assert "visitor" in text
    assert "Your role may look at the rules but not change them." in text
    assert b'action="/apps/shop/policy' not in answer.content


def test_an_app_of_tcp_has_ports_and_no_rules_about_requests(shop: Any, browser: Browser, settings: Any) -> None:
    settings.GATEWAY_TCP_PORTS = (20005, 20005)
    bob = browser("bob")
    assert "counts from the next deploy" in words(
        bob.post(f"{PAGE}/protocol", {"protocol": "tcp"}, follow=True).content
    )
    html = bob.get(PAGE)
    assert "No port leads to the app yet." in words(html.content)
    assert "Maintenance" not in words(html.content)
    assert b"client_rate" not in html.content
    assert "shop.localhost:20005" in words(bob.post(f"{PAGE}/ports", follow=True).content)
    assert "no free port" in words(bob.post(f"{PAGE}/ports", follow=True).content)
    assert "Port 20005 leads nowhere any more." in words(bob.post(f"{PAGE}/ports/20005/release", follow=True).content)
    assert GatewayPort.objects.get().status == "resting"
    assert browser("alice").post(PAGE, {"deny": "10.0.0.1", "allow": ""}).status_code == 302
    assert "reached at its ports" in words(bob.get("/apps/shop/").content)


def test_a_new_app_says_what_it_speaks(world: Any, browser: Browser) -> None:
    bob = browser("bob")
    assert bob.post("/apps/new", {"tenant": "acme", "slug": "queue", "protocol": "tcp"}).status_code == 302
    assert bob.post("/apps/new", {"tenant": "acme", "slug": "site"}).status_code == 302
    assert bob.post("/apps/new", {"tenant": "acme", "slug": "odd", "protocol": "udp"}).status_code == 400
    assert dict(App.objects.values_list("slug", "protocol")) == {"queue": "tcp", "site": "http"}
