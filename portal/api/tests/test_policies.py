"""Rules, people and ports over the API."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.test import APIClient

from apps.deployments.models import GatewayPolicy
from apps.deployments.services.policies import FIELDS
from apps.tenants.services.tokens import token_create
from portal.settings.ranges import port_range

POLICY, PEOPLE, PORTS = "/api/v1/apps/shop/policy/", "/api/v1/apps/shop/policy/people/", "/api/v1/apps/shop/ports/"


def client_of(user: Any) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token_create(user=user, name='ci')[1]}")
    return client


def test_rules_are_read_changed_in_part_and_replaced_as_a_whole(world):
    world.app("shop")
    client = client_of(world.alice)
    off = client.get(POLICY).json()
    assert set(off) == set(FIELDS)
    assert not any(off.values())
    changed = client.patch(POLICY, {"hold_s": 5, "deny": ["10.0.0.1"], "maintenance": True})
    assert changed.json() == {**off, "hold_s": 5, "deny": ["10.0.0.1/32"], "maintenance": True}
    assert client.put(POLICY, {"app_rate": 9}).json() == {**off, "app_rate": 9}
    assert client_of(world.vera).get(POLICY).json()["app_rate"] == 9


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"hold_s": 61}, "request.invalid"),
        ({"hold_s": "x"}, "request.invalid"),
        ({"deny": ["10.0.0.1/8"]}, "policy.invalid"),
        ({"deny": ["x" * 81]}, "request.invalid"),
        ({"deny": "10.0.0.1"}, "request.invalid"),
        ({"max_header_bytes": 10}, "policy.invalid"),
        ({"maintenance": "perhaps"}, "request.invalid"),
    ],
)
def test_what_can_not_be_a_rule_is_refused(world, body, code):
    world.app("shop")
    answer = client_of(world.alice).patch(POLICY, body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not GatewayPolicy.objects.exists()


def test_roles_count(world):
    world.app("shop")
    assert client_of(world.bob).patch(POLICY, {"hold_s": 5}).status_code == 200
    for who, method, path, body in (
        ("bob", "patch", POLICY, {"allow": ["10.0.0.0/8"]}),
        ("bob", "put", f"{PEOPLE}p/", {"password": "let me in please"}),
        ("bob", "delete", f"{PEOPLE}p/", None),
        ("vera", "patch", POLICY, {"hold_s": 6}),
        ("vera", "post", PORTS, None),
        ("vera", "delete", f"{PORTS}1/", None),
        ("vera", "patch", "/api/v1/apps/shop/", {"protocol": "h2"}),
    ):
        answer = getattr(client_of(getattr(world, who)), method)(path, body)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission.denied"), (who, method, path)


def test_people_come_and_go_and_no_answer_holds_a_password(world):
    world.app("shop")
    client = client_of(world.alice)
    made = client.put(f"{PEOPLE}visitor/", {"password": "let me in please"})
    assert (made.status_code, made.json()["name"]) == (200, "visitor")
    for answer in (made, client.get(PEOPLE)):
        assert set(answer.json()[0] if isinstance(answer.json(), list) else answer.json()) == {
            "name",
            "created_at",
            "created_by",
        }
    assert client.put(f"{PEOPLE}a:b/", {"password": "let me in please"}).json()["code"] == "policy.person_invalid"
    assert client.put(f"{PEOPLE}b/", {"password": "short"}).json()["code"] == "policy.person_invalid"
    assert client.delete(f"{PEOPLE}visitor/").status_code == 204
    assert client.delete(f"{PEOPLE}visitor/").json()["code"] == "policy.person_not_found"


def test_an_app_of_tcp_is_made_and_gets_ports(world, settings):
    settings.GATEWAY_TCP_PORTS = (20007, 20007)
    client = client_of(world.bob)
    made = client.post("/api/v1/apps/", {"tenant": "acme", "slug": "shop", "protocol": "tcp"})
    assert (made.status_code, made.json()["protocol"], made.json()["url"]) == (201, "tcp", "tcp://shop.localhost")
    claimed = client.post(PORTS)
    assert (claimed.status_code, claimed.json()["address"]) == (201, "shop.localhost:20007")
    assert [one["port"] for one in client.get(PORTS).json()] == [20007]
    assert client.post(PORTS).json()["code"] == "ports.exhausted"
    assert client.patch(POLICY, {"maintenance": True}).json()["code"] == "policy.http_only"
    assert client.patch("/api/v1/apps/shop/", {"protocol": "http"}).json()["code"] == "protocol.in_use"
    assert client.delete(f"{PORTS}20007/").status_code == 204
    assert client.delete(f"{PORTS}20007/").json()["code"] == "ports.not_found"
    assert client.patch("/api/v1/apps/shop/", {"protocol": "http"}).json()["protocol"] == "http"
    assert client.post(PORTS).json()["code"] == "ports.not_tcp"
    assert client.patch("/api/v1/apps/shop/", {"protocol": "udp"}).json()["code"] == "request.invalid"


@pytest.mark.parametrize("text", ["20000", "2-1", "0-5", "1-65536", "a-b", "1-2-3"])
def test_a_pool_that_is_none_is_refused_at_the_start(text):
    with pytest.raises(ImproperlyConfigured):
        port_range("X", text)


def test_a_pool_is_first_and_last():
    assert port_range("X", "20000-20099") == (20000, 20099)
    assert port_range("X", "") is None
