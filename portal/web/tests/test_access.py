"""Each page for each person: owner, developer, viewer, stranger, signed out."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.deployments.services.rollouts import rollout_start
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PEOPLE = ("alice", "bob", "vera", "charlie", "")

#: page -> what each of PEOPLE gets.
GETS = {
    "/": (200, 200, 200, 200, 302),
    "/apps/live": (200, 200, 200, 200, 302),
    "/apps/new": (200, 200, 403, 200, 302),
    "/apps/shop/": (200, 200, 200, 404, 302),
    "/apps/shop/live": (200, 200, 200, 404, 302),
    "/apps/shop/push": (200, 200, 200, 404, 302),
    "/apps/shop/push/live": (200, 200, 200, 404, 302),
    "/apps/shop/deploy": (302, 302, 302, 404, 302),
    "/apps/shop/undeploy": (200, 200, 403, 404, 302),
    "/apps/shop/delete": (200, 403, 403, 404, 302),
    "/tenants/acme/delete": (200, 403, 403, 404, 302),
    "/tenants/acme/robots": (200, 200, 200, 404, 302),
    "/tenants/acme/robots/ci/renew": (405, 405, 405, 405, 405),
    "/tenants/acme/robots/ci/delete": (405, 405, 405, 405, 405),
    "/apps/shop/import": (200, 200, 403, 404, 302),
    "/base-images/": (200, 200, 200, 200, 302),
    "/base-images/redis/": (200, 200, 403, 200, 302),
    "/base-images/python/": (403, 403, 403, 403, 302),
    "/base-images/nothing/": (404, 404, 404, 404, 302),
    "/tenants/acme/certificates": (200, 200, 200, 404, 302),
    "/tenants/acme/certificates/order": (405, 405, 405, 405, 405),
    "/tenants/acme/certificates/00000000-0000-4000-8000-000000000001/retry": (405, 405, 405, 405, 405),
    "/tenants/acme/certificates/00000000-0000-4000-8000-000000000001/delete": (405, 405, 405, 405, 405),
    "/tenants/acme/registries": (200, 200, 200, 404, 302),
    "/tenants/acme/registries/there/test": (405, 405, 405, 405, 405),
    "/tenants/acme/registries/there/delete": (405, 405, 405, 405, 405),
    "/apps/shop/rollouts/1/cancel": (404, 404, 403, 404, 302),
    "/apps/shop/rollouts/1/": (404, 404, 404, 404, 302),
    "/apps/shop/rollouts/1/live": (404, 404, 404, 404, 302),
    "/apps/shop/rollouts/1/pause": (405, 405, 405, 405, 405),
    "/apps/shop/rollouts/1/continue": (405, 405, 405, 405, 405),
    "/apps/shop/releases/": (200, 200, 200, 404, 302),
    "/apps/shop/releases/diff": (404, 404, 404, 404, 302),
    "/apps/shop/releases/1/rollback": (404, 404, 403, 404, 302),
    "/apps/shop/cleanup": (200, 200, 200, 404, 302),
    "/apps/shop/domains": (200, 200, 200, 404, 302),
    "/apps/shop/domains/1/check": (405, 405, 405, 405, 405),
    "/apps/shop/domains/1/remove": (405, 405, 405, 405, 405),
    "/apps/shop/statistics": (200, 200, 200, 404, 302),
    "/apps/shop/statistics/live": (200, 200, 200, 404, 302),
    "/apps/shop/access-log": (200, 200, 200, 404, 302),
    "/apps/shop/access-log?status=5xx": (200, 200, 200, 404, 302),
    "/apps/shop/cleanup/now": (405, 405, 405, 405, 405),
    "/apps/shop/policy": (200, 200, 200, 404, 302),
    "/apps/shop/policy/maintenance": (405, 405, 405, 405, 405),
    "/apps/shop/policy/people": (405, 405, 405, 405, 405),
    "/apps/shop/policy/people/p/remove": (405, 405, 405, 405, 405),
    "/apps/shop/policy/protocol": (405, 405, 405, 405, 405),
    "/apps/shop/policy/ports": (405, 405, 405, 405, 405),
    "/apps/shop/policy/ports/1/release": (405, 405, 405, 405, 405),
    "/apps/shop/scale": (302, 302, 302, 404, 302),
    "/apps/shop/placement": (200, 200, 200, 404, 302),
    "/apps/shop/placement?instances=2": (200, 200, 200, 404, 302),
    "/apps/shop/placement/1": (404, 404, 404, 404, 302),
    "/apps/shop/instances/00000000-0000-4000-8000-000000000001/": (404, 404, 404, 404, 302),
    "/registry/": (200, 200, 200, 200, 302),
    "/registry/?tenant=acme": (200, 200, 200, 404, 302),
    "/apps/shop/versions/": (200, 200, 200, 404, 302),
    "/apps/shop/versions/?replaced=1": (200, 200, 200, 404, 302),
    "/apps/shop/versions/1.0/": (200, 200, 200, 404, 302),
    "/apps/shop/versions/9.9/": (404, 404, 404, 404, 302),
    "/apps/shop/versions/1.0/delete": (200, 403, 403, 404, 302),
    "/apps/shop/deploy-on-push": (200, 200, 403, 404, 302),
    "/account/": (200, 200, 200, 200, 302),
    "/account/tokens": (302, 302, 302, 302, 302),
    "/login/": (302, 302, 302, 302, 200),
    "/apps/no-such-app/": (404, 404, 404, 404, 302),
    "/nowhere": (404, 404, 404, 404, 404),
}
POSTS = {
    "/apps/shop/deploy": (302, 302, 403, 404, 302),
    "/apps/shop/undeploy": (302, 302, 403, 404, 302),
    "/apps/shop/rollouts/1/cancel": (404, 404, 403, 404, 302),
    "/apps/shop/delete": (400, 403, 403, 404, 302),
    "/tenants/acme/delete": (400, 403, 403, 404, 302),
    "/tenants/acme/robots": (400, 403, 403, 404, 302),
    "/tenants/acme/robots/ci/renew": (404, 403, 403, 404, 302),
    "/tenants/acme/robots/ci/delete": (404, 403, 403, 404, 302),
    "/apps/shop/import": (400, 400, 403, 404, 302),
    "/base-images/redis/": (400, 400, 403, 400, 302),
    "/tenants/acme/certificates": (400, 403, 403, 404, 302),
    "/tenants/acme/certificates/order": (400, 403, 403, 404, 302),
    "/tenants/acme/certificates/00000000-0000-4000-8000-000000000001/retry": (404, 403, 403, 404, 302),
    "/tenants/acme/certificates/00000000-0000-4000-8000-000000000001/delete": (404, 403, 403, 404, 302),
    "/tenants/acme/registries": (400, 403, 403, 404, 302),
    "/tenants/acme/registries/there/test": (404, 403, 403, 404, 302),
    "/tenants/acme/registries/there/delete": (404, 403, 403, 404, 302),
    "/apps/shop/rollouts/1/pause": (404, 404, 403, 404, 302),
    "/apps/shop/rollouts/1/continue": (404, 404, 403, 404, 302),
    "/apps/shop/releases/1/rollback": (404, 404, 403, 404, 302),
    "/apps/shop/cleanup": (400, 403, 403, 404, 302),
    "/apps/shop/domains": (400, 403, 403, 404, 302),
    "/apps/shop/domains/999999/check": (404, 403, 403, 404, 302),
    "/apps/shop/domains/999999/remove": (404, 403, 403, 404, 302),
    "/apps/shop/cleanup/now": (302, 403, 403, 404, 302),
    "/apps/shop/versions/9.9/delete": (404, 403, 403, 404, 302),
    "/apps/shop/deploy-on-push": (302, 302, 403, 404, 302),
    "/apps/shop/policy": (400, 400, 403, 404, 302),
    "/apps/shop/policy/maintenance": (302, 302, 403, 404, 302),
    "/apps/shop/policy/people": (400, 403, 403, 404, 302),
    "/apps/shop/policy/people/p/remove": (302, 403, 403, 404, 302),
    "/apps/shop/policy/protocol": (400, 400, 403, 404, 302),
    "/apps/shop/policy/ports": (302, 302, 403, 404, 302),
    "/apps/shop/policy/ports/1/release": (302, 302, 403, 404, 302),
    "/apps/shop/scale": (400, 400, 403, 404, 302),
    "/apps/new": (400, 400, 403, 400, 302),
    "/account/tokens": (400, 400, 400, 400, 302),
    "/account/tokens/1/revoke": (404, 404, 404, 404, 302),
    "/": (405, 405, 405, 405, 405),
}


@pytest.mark.parametrize(("path", "expected"), GETS.items())
def test_each_page_answers_each_person_as_it_should(
    path: str, expected: tuple[int, ...], shop: Any, browser: Browser
) -> None:
    got = tuple(browser(name).get(path).status_code for name in PEOPLE)
    assert dict(zip(PEOPLE, got, strict=True)) == dict(zip(PEOPLE, expected, strict=True))


@pytest.mark.parametrize(("path", "expected"), POSTS.items())
def test_each_change_answers_each_person_as_it_should(
    path: str, expected: tuple[int, ...], shop: Any, browser: Browser
) -> None:
    for name, status in zip(PEOPLE, expected, strict=True):
        shop.rollouts.all().delete()
        answer = browser(name).post(path, {"version": "1.0"} if path.endswith("/deploy") else {})
        assert answer.status_code == status, name


def test_a_viewer_is_refused_before_what_was_sent_is_looked_at(shop: Any, browser: Browser) -> None:
    assert browser("vera").post("/apps/shop/deploy", {"version": ""}).status_code == 403


CHANGES = (
    "/apps/shop/domains",
    "/apps/shop/domains/1/check",
    "/apps/shop/domains/1/remove",
    "/apps/shop/policy",
    "/apps/shop/policy/maintenance",
    "/apps/shop/policy/people",
    "/apps/shop/policy/people/p/remove",
    "/apps/shop/policy/protocol",
    "/apps/shop/policy/ports",
    "/apps/shop/policy/ports/1/release",
    "/apps/shop/cleanup",
    "/apps/shop/cleanup/now",
    "/apps/shop/deploy",
    "/apps/shop/undeploy",
    "/apps/shop/scale",
    "/apps/shop/rollouts/1/pause",
    "/apps/shop/rollouts/1/continue",
    "/apps/shop/releases/1/rollback",
    "/apps/shop/delete",
    "/tenants/acme/delete",
    "/tenants/acme/robots",
    "/tenants/acme/robots/ci/renew",
    "/tenants/acme/robots/ci/delete",
    "/apps/shop/import",
    "/base-images/redis/",
    "/tenants/acme/registries",
    "/tenants/acme/registries/there/test",
    "/tenants/acme/registries/there/delete",
    "/apps/new",
    "/account/tokens",
)


@pytest.mark.parametrize("path", CHANGES)
def test_changes_need_the_csrf_token(path: str, shop: Any, world: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.alice, backend="django.contrib.auth.backends.ModelBackend")
    answer = client.post(path, {"version": "1.0"})
    assert answer.status_code == 403
    assert "This form was too old" in words(answer.content)
    assert not offences(answer.content)


def test_signed_out_people_come_back_to_where_they_wanted_to_be(shop: Any, browser: Browser) -> None:
    answer = browser("").get("/apps/shop/")
    assert answer.headers["Location"] == f"{reverse('web:login')}?next=/apps/shop/"


def test_a_fragment_sends_signed_out_people_to_the_login_page_as_a_whole(shop: Any, browser: Browser) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/apps/shop/"}
    answer = browser("").get("/apps/shop/live", headers=headers)
    assert answer.headers["HX-Redirect"] == "/login/?next=%2Fapps%2Fshop%2F"
    assert b"password" not in answer.content


def test_a_stranger_learns_nothing_from_the_404(shop: Any, browser: Browser) -> None:
    there = browser("charlie").get("/apps/shop/")
    nowhere = browser("charlie").get("/apps/not-there/")
    assert there.status_code == nowhere.status_code == 404
    assert there.content == nowhere.content
    assert "There is nothing here" in words(there.content)
    assert "shop" not in words(browser("charlie").get("/").content)


def test_what_the_role_denies_is_not_offered(shop: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    for name, may in (("alice", True), ("bob", True), ("vera", False)):
        html = browser(name).get("/apps/shop/").content
        assert (b'id="deploy-form"' in html) is may
        assert (b"/apps/shop/undeploy" in html) is may
        assert (b"/apps/shop/rollouts/1/cancel" in html) is may
        assert (b"/apps/shop/delete" in html) is (name == "alice")
        assert (b"/tenants/acme/delete" in browser(name).get("/account/").content) is (name == "alice")
        assert (b"docker push" in html) is may
        assert (b"/apps/new" in browser(name).get("/").content) is may
    text = words(browser("vera").get("/apps/shop/").content)
    assert "Your role in this tenant is viewer, which may pull but not push" in text
    assert "which may look but not deploy" in text


def test_somebody_of_no_tenant_is_told_what_to_do(world: Any, db: None) -> None:
    from apps.tenants.models import User

    client = Client()
    client.force_login(User.objects.create_user("nora", "nora@example.com", "x"), backend=BACKEND)
    text = words(client.get("/").content)
    assert "You are not a member of any tenant yet" in text
    assert "nora" in text


BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.mark.parametrize("path", [path for path, codes in GETS.items() if codes[0] in (200, 404)])
def test_pages_obey_the_content_security_policy_and_label_their_inputs(
    path: str, shop: Any, world: Any, browser: Browser
) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    for name in ("alice", "vera", ""):
        answer = browser(name).get(path, follow=True)
        assert offences(answer.content) == []
        assert unlabelled(answer.content) == []
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy


def test_pages_are_kept_in_no_cache(shop: Any, browser: Browser) -> None:
    for path in ("/", "/apps/shop/", "/account/"):
        assert "no-store" in browser("alice").get(path).headers["Cache-Control"]


def test_views_open_no_connection(shop: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a view opened a connection")

    client = browser("alice")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for path in ("/", "/apps/shop/", "/apps/shop/live", "/account/", "/apps/new", "/apps/shop/undeploy"):
        assert client.get(path).status_code == 200
    assert client.post("/apps/shop/deploy", {"version": "1.0"}).status_code == 302


def test_signing_in_and_out(world: Any, client: Client) -> None:
    refused = client.post("/login/", {"username": "alice", "password": "wrong"})
    assert "don't go together" in words(refused.content)
    answer = client.post("/login/?next=/account/", {"username": "alice", "password": "a-long-pass-phrase"})
    assert answer.headers["Location"] == "/account/"
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").headers["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_the_login_page_leads_to_no_other_site(world: Any, client: Client) -> None:
    answer = client.post("/login/?next=https://evil.example/", {"username": "alice", "password": "a-long-pass-phrase"})
    assert answer.headers["Location"] == "/"
