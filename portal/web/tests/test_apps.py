"""The list, a new app, one app's page: what they show, and in how many queries."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import SuspiciousOperation
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from apps.core import events
from apps.deployments.models import App, Instance
from apps.deployments.services.instances import instance_fail
from apps.deployments.services.moves import rollout_give_up
from apps.deployments.services.rollouts import rollout_start
from portal.web import errors
from portal.web.tests.conftest import Browser, instances_add
from portal.web.tests.pages import offences, words


def _queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


@pytest.mark.parametrize("path", ["/", "/apps/live", "/apps/shop/", "/apps/shop/live"])
@pytest.mark.parametrize("name", ["alice", "vera"])
def test_the_number_of_queries_does_not_depend_on_how_much_there_is(
    path: str, name: str, shop: Any, world: Any, browser: Browser
) -> None:
    client = browser(name)
    instances_add(world, shop, 1)
    client.get(path)
    few = _queries(client, path)
    for number in range(20):
        world.push(shop, f"2.{number}", f"{number:064x}")
        events.record("instance.ready", "Ready.", app_id=shop.pk, tenant_id=shop.tenant_id)
    instances_add(world, shop, 29)
    for number in range(5):
        world.app(f"other-{number}")
    assert _queries(client, path) == few
    assert few <= 25


def test_the_list_shows_state_address_and_how_many_are_ready(shop: Any, world: Any, browser: Browser) -> None:
    client = browser("vera")
    assert "shop not deployed yet — — http://shop.localhost/ Acme" in words(client.get("/").content)
    instances_add(world, shop, 2)
    Instance.objects.filter(pk=Instance.objects.first().pk).update(status="unhealthy")
    assert "shop degraded 1.0 1/2 http://shop.localhost/ Acme" in words(client.get("/apps/live").content)


def test_the_list_of_a_tenant_without_apps_says_what_to_do(world: Any, browser: Browser) -> None:
    assert "Create the first app" in words(browser("alice").get("/").content)
    looker = words(browser("vera").get("/").content)
    assert "No apps yet" in looker
    assert "Create the first app" not in looker


def test_a_new_app_leads_to_its_page_with_the_push_commands(world: Any, browser: Browser, settings: Any) -> None:
    settings.REGISTRY_PUBLIC = "registry.example:5443"
    answer = browser("bob").post("/apps/new", {"tenant": "acme", "slug": "shop"}, follow=True)
    assert answer.redirect_chain == [("/apps/shop/", 302)]
    text = words(answer.content)
    assert "docker login registry.example:5443 -u bob" in text
    assert "docker tag my-image registry.example:5443/shop:1.0" in text
    assert "docker push registry.example:5443/shop:1.0" in text
    assert "Waiting for the first push" in text
    assert "There is nothing to deploy yet" in text


@pytest.mark.parametrize("slug", ["Shop", "my.shop", "x", "9lives", "a--b", "a" * 41, "registry", "a b"])
def test_a_name_that_cant_be_is_refused_at_its_field(slug: str, world: Any, browser: Browser) -> None:
    answer = browser("alice").post("/apps/new", {"tenant": "acme", "slug": slug})
    assert answer.status_code == 400
    assert "slug.invalid" in words(answer.content)
    assert 'aria-invalid="true"' in answer.content.decode()
    assert 'id="id_slug_error"' in answer.content.decode()
    assert not App.objects.exists()


def test_a_taken_name_a_full_quota_and_a_missing_cluster_are_told(world: Any, browser: Browser) -> None:
    world.app("taken", tenant=world.rival, by=world.charlie)
    client = browser("alice")
    taken = client.post("/apps/new", {"tenant": "acme", "slug": "taken"})
    assert (taken.status_code, "slug.taken" in words(taken.content)) == (409, True)
    world.acme.quota.apps = 0
    world.acme.quota.save()
    full = client.post("/apps/new", {"tenant": "acme", "slug": "more"})
    assert (full.status_code, "quota.exceeded" in words(full.content)) == (409, True)
    App.objects.all().delete()
    world.cluster.is_default = False
    world.cluster.save()
    nowhere = client.post("/apps/new", {"tenant": "acme", "slug": "more"})
    assert (nowhere.status_code, "hosts.no_cluster" in words(nowhere.content)) == (503, True)


def test_nobody_creates_an_app_in_a_tenant_of_others(world: Any, browser: Browser) -> None:
    answer = browser("charlie").post("/apps/new", {"tenant": "acme", "slug": "intruder"})
    assert answer.status_code == 400
    assert not App.objects.exists()


def test_the_page_shows_neither_hosts_nor_values_of_variables(shop: Any, world: Any, browser: Browser) -> None:
    instances_add(world, shop, 2)
    html = browser("alice").get("/apps/shop/").content.decode()
    assert "do-not-show" not in html
    assert "SECRET" in html
    assert "host-1" not in html
    assert "127.0.1.1" not in html
    assert "host 1" in html


def test_what_an_engine_says_about_hosts_is_put_in_our_words(shop: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    instance = Instance.objects.get()
    instance_fail(instance=instance, code="engine.unreachable", reason="https://10.9.8.7:2376: connection refused")
    html = browser("alice").get("/apps/shop/live").content.decode()
    assert "10.9.8.7" not in html
    assert "The host could not be reached." in html
    assert "engine.unreachable" in html


def test_the_page_says_why_the_last_rollout_failed(shop: Any, world: Any, browser: Browser) -> None:
    rollout = rollout_start(app=shop, version="1.0", by=world.alice)
    client = browser("vera")
    assert "Rolling out 1.0 as release 1. 0 of 1 ready" in words(client.get("/apps/shop/").content)
    instance = Instance.objects.get()
    instance_fail(instance=instance, code="instance.out_of_memory", reason="Killed: it used too much.", exit_code=137)
    rollout_give_up(rollout=rollout, status="failed", code="instance.out_of_memory", reason="Killed: it used too much.")
    text = words(client.get("/apps/shop/").content)
    assert "deploy failed" in text or "undeploying" in text
    assert "The rollout of 1.0 (release 1) failed. Killed: it used too much. instance.out_of_memory" in text
    assert "Exit code 137." in text


def test_many_instances_are_counted_and_the_unwell_are_shown(shop: Any, world: Any, browser: Browser) -> None:
    instances_add(world, shop, 40)
    last = Instance.objects.order_by("pk").last()
    Instance.objects.filter(pk=last.pk).update(status="failed", code="instance.exited", reason="Gone.")
    text = words(browser("alice").get("/apps/shop/").content)
    assert "39 of 40 ready" in text
    assert last.short_id in text
    assert "and 10 more" in text


def test_the_live_fragment_holds_no_form_and_renews_the_header(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    html = client.get("/apps/shop/live").content.decode()
    assert "<form" not in html
    assert 'id="app-state" class="under" hx-swap-oob="true"' in html
    page = client.get("/apps/shop/").content.decode()
    assert "hx-swap-oob" not in page
    assert 'hx-get="/apps/shop/live" hx-trigger="every 2s, news"' in page


def test_htmx_is_kept_from_inline_styles_and_eval(shop: Any, browser: Browser) -> None:
    html = browser("alice").get("/").content.decode()
    assert '"includeIndicatorStyles": false' in html
    assert '"allowEval": false' in html


def test_text_of_tenants_is_escaped(shop: Any, world: Any, browser: Browser) -> None:
    world.acme.name = "<script>alert(1)</script>"
    world.acme.save()
    events.record("rollout.refused", "<img src=x onerror=alert(1)>", app_id=shop.pk, actor="<b>")
    for path in ("/", "/apps/shop/", "/account/", "/apps/new"):
        html = browser("alice").get(path).content
        assert b"<script>alert" not in html
        assert offences(html) == []


@pytest.mark.parametrize(
    ("status", "make"),
    [
        (400, lambda request: errors.bad_request(request, SuspiciousOperation())),
        (403, lambda request: errors.forbidden(request, PermissionError())),
        (404, lambda request: errors.not_found(request, LookupError())),
        (500, errors.server_error),
    ],
)
def test_error_pages_say_the_next_step_without_the_database(status: int, make: Any) -> None:
    answer = make(RequestFactory().get("/somewhere"))
    assert answer.status_code == status
    assert offences(answer.content) == []
    assert "Go to your apps" in words(answer.content)


def test_below_api_the_errors_are_the_api_s_own() -> None:
    request = RequestFactory().get("/api/v1/nowhere")
    assert errors.not_found(request, LookupError()).headers["Content-Type"] == "application/problem+json"
    assert errors.server_error(request).headers["Content-Type"] == "application/problem+json"
