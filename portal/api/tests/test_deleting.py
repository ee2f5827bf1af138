"""DELETE, as an integrator meets it."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from apps.deployments.models import App
from apps.tenants.models import Tenant
from apps.tenants.services.tokens import token_create

APP, TENANT = "/api/v1/apps/shop/", "/api/v1/tenants/acme/"


def _client(user):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token_create(user=user, name='test')[1]}")
    return client


def test_an_app_is_deleted_and_404_says_when_it_is_gone(world, loop):
    world.host()
    world.push(world.app("shop"))
    client = _client(world.alice)
    client.post(f"{APP}rollouts/", {"version": "1.0"})
    loop.settle()
    asked = client.delete(APP)
    assert (asked.status_code, asked.json()["code"]) == (400, "apps.confirm_needed")
    assert asked.json()["instances"] == 1
    assert asked.json()["domains"] == ["shop.localhost"]
    begun = client.delete(APP, {"confirm": "shop"})
    assert begun.status_code == 202
    assert begun.json()["deleting_at"]
    assert client.get(APP).json()["deleting_at"], "it can still be looked at"
    for path, body in ((f"{APP}rollouts/", {"version": "1.0"}), (f"{APP}undeploy/", {})):
        reply = client.post(path, body)
        assert (reply.status_code, reply.json()["code"]) == (409, "apps.deleting")
    assert client.delete(APP, {"confirm": "shop"}).status_code == 202
    loop.settle()
    assert client.get(APP).status_code == 404
    assert client.post("/api/v1/apps/", {"tenant": "acme", "slug": "shop"}).status_code == 201


def test_a_tenant_is_deleted_with_its_apps_if_that_is_said(world, loop):
    world.app("shop")
    client = _client(world.alice)
    assert client.delete(TENANT).json()["code"] == "tenants.confirm_needed"
    refused = client.delete(TENANT, {"confirm": "acme"})
    assert (refused.status_code, refused.json()["code"], refused.json()["apps"]) == (409, "tenants.has_apps", ["shop"])
    begun = client.delete(TENANT, {"confirm": "acme", "with_apps": True})
    assert begun.status_code == 202
    assert begun.json()["deleting_at"]
    made = client.post("/api/v1/apps/", {"tenant": "acme", "slug": "blog"})
    assert (made.status_code, made.json()["code"]) == (409, "tenants.deleting")
    loop.settle(10)
    assert client.get(TENANT).status_code == 404
    assert client.get("/api/v1/me/").status_code == 200, "people keep their accounts and tokens"


@pytest.mark.parametrize("path", [APP, TENANT])
@pytest.mark.parametrize(
    ("who", "status", "code"),
    [("bob", 403, "permission.denied"), ("vera", 403, "permission.denied"), ("charlie", 404, None)],
)
def test_who_may_not_is_told_so_and_strangers_nothing(world, path, who, status, code):
    world.app("shop")
    reply = _client(getattr(world, who)).delete(path, {"confirm": path.split("/")[4], "with_apps": True})
    assert reply.status_code == status
    assert code is None or reply.json()["code"] == code
    assert App.objects.get().deleting_at is None
    assert Tenant.objects.get(slug="acme").deleting_at is None


@pytest.mark.parametrize(
    "body", [{"confirm": ["shop"]}, {"confirm": {"a": 1}}, {"confirm": "x" * 300}, {"confirm": None}]
)
def test_a_confirmation_that_is_no_name_is_refused(world, body):
    world.app("shop")
    reply = _client(world.alice).delete(APP, body)
    assert (reply.status_code, reply.json()["code"]) == (400, "request.invalid")
