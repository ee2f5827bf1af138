"""The pages that delete an app or a tenant: they say what goes, and want the name typed."""

from __future__ import annotations

from typing import Any

import pytest

from apps.deployments.models import App
from apps.deployments.selectors import events_of
from apps.deployments.services.deleting import app_delete, tenant_delete
from apps.tenants.models import Tenant
from portal.web.tests.conftest import Browser, instances_add
from portal.web.tests.pages import offences, unlabelled, words


def test_the_page_of_an_app_says_what_goes_and_the_name_typed_begins_it(
    shop: Any, world: Any, browser: Browser
) -> None:
    instances_add(world, shop, 2)
    client = browser("alice")
    page = client.get("/apps/shop/delete")
    text = words(page.content)
    for part in ("2 instances", "1 version", "1 release", "shop.localhost", "Type shop to say"):
        assert part in text
    assert offences(page.content) == []
    assert unlabelled(page.content) == []
    answer = client.post("/apps/shop/delete", {"confirm": "shop"}, follow=True)
    assert answer.redirect_chain == [("/apps/shop/", 302)]
    assert App.objects.get().deleting_at is not None
    text = words(answer.content)
    assert "shop is being deleted." in text
    assert "2 instances are still to be stopped" in text


@pytest.mark.parametrize("typed", ["", "Shop", "blog"])
def test_another_name_deletes_nothing(shop: Any, browser: Browser, typed: str) -> None:
    answer = browser("alice").post("/apps/shop/delete", {"confirm": typed})
    assert answer.status_code == 400
    assert "Type the app's name to say that you mean it. apps.confirm_needed" in words(answer.content)
    assert App.objects.get().deleting_at is None


def test_an_app_that_is_being_deleted_is_shown_and_offers_nothing(shop: Any, world: Any, browser: Browser) -> None:
    instances_add(world, shop, 1)
    app_delete(app=shop, by=world.alice, confirm="shop")
    client = browser("alice")
    html = client.get("/apps/shop/").content
    for gone in (b'id="deploy-form"', b"/apps/shop/undeploy", b"/apps/shop/delete", b"docker push", b"data-pick"):
        assert gone not in html
    assert "being deleted" in words(client.get("/").content)
    assert client.get("/apps/shop/delete").headers["Location"] == "/apps/shop/"
    answer = client.post("/apps/shop/deploy", {"version": "1.0"}, follow=True)
    assert "nothing of it can be changed any more" in words(answer.content)


def test_the_page_of_a_tenant_names_its_apps_and_asks_whether_they_go_too(
    shop: Any, world: Any, browser: Browser
) -> None:
    client = browser("alice")
    text = words(client.get("/tenants/acme/delete").content)
    assert "the app shop with its instances" in text
    assert "3 memberships" in text
    refused = client.post("/tenants/acme/delete", {"confirm": "acme"})
    assert refused.status_code == 409
    assert "acme has 1 apps" in words(refused.content)
    wrong = client.post("/tenants/acme/delete", {"confirm": "Acme Inc", "with_apps": "on"})
    assert wrong.status_code == 400
    assert Tenant.objects.get(slug="acme").deleting_at is None
    answer = client.post("/tenants/acme/delete", {"confirm": "acme", "with_apps": "on"}, follow=True)
    assert answer.redirect_chain == [("/account/", 302)]
    assert "Acme is being deleted." in words(answer.content)
    assert "being deleted" in words(client.get("/account/").content)
    assert App.objects.get().deleting_at is not None
    assert client.get("/tenants/acme/delete").headers["Location"] == "/account/"


def test_hosts_of_its_own_are_counted_and_not_named(world: Any, browser: Browser) -> None:
    world.host(dedicated_to=world.acme, name="secret-metal")
    client = browser("alice")
    for answer in (
        client.get("/tenants/acme/delete"),
        client.post("/tenants/acme/delete", {"confirm": "acme", "with_apps": "on"}),
    ):
        assert "1 host" in words(answer.content)
        assert b"secret-metal" not in answer.content


def test_no_app_is_offered_in_a_tenant_that_is_being_deleted(world: Any, browser: Browser) -> None:
    tenant_delete(tenant=world.acme, by=world.alice, confirm="acme")
    assert browser("bob").get("/apps/new").status_code == 403


def test_a_page_says_where_its_events_come_from_and_from_which_on(shop: Any, browser: Browser) -> None:
    html = browser("vera").get("/apps/shop/").content.decode()
    newest = events_of(shop).values_list("pk", flat=True)[0]
    assert f'data-stream="/api/v1/apps/shop/events/stream/" data-after="{newest}"' in html
