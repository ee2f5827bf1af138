"""The REST API, as an integrator meets it."""

from __future__ import annotations

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from apps.core.models import Event
from apps.deployments.models import App, Instance
from apps.tenants.services.tokens import token_create


def _client(user=None, scopes=()):
    client = APIClient()
    if user is not None:
        _, secret = token_create(user=user, name="test", scopes=scopes)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def deployed(world, loop):
    world.host()
    app = world.app("shop")
    world.push(app)
    reply = _client(world.bob).post("/api/v1/apps/shop/rollouts/", {"version": "1.0", "instances": 2})
    assert reply.status_code == 202
    assert reply["Location"].endswith("/api/v1/apps/shop/rollouts/1/")
    loop.settle()
    return app


def test_the_whole_path_over_the_api(world, loop):
    world.host()
    client = _client(world.bob)
    made = client.post("/api/v1/apps/", {"tenant": "acme", "slug": "shop"})
    assert (made.status_code, made.json()["url"]) == (201, "http://shop.localhost/")
    world.push(App.objects.get(slug="shop"))
    assert client.get("/api/v1/apps/shop/versions/").json()["results"][0]["tag"] == "1.0"
    asked = {"version": "1.0", "instances": 2, "env": {"GREETING": 'a "quoted"\nline'}, "memory_mb": 64}
    started = client.post("/api/v1/apps/shop/rollouts/", asked)
    assert (started.status_code, started.json()["status"]) == (202, "progressing")
    loop.settle()
    assert client.get(started["Location"]).json()["status"] == "succeeded"
    instances = client.get("/api/v1/apps/shop/instances/").json()["results"]
    assert [one["status"] for one in instances] == ["healthy", "healthy"]
    assert client.get("/api/v1/apps/shop/").json()["instances_ready"] == 2
    (release,) = client.get("/api/v1/apps/shop/releases/").json()["results"]
    assert release["env_names"] == ["GREETING"]
    assert client.post("/api/v1/apps/shop/undeploy/").status_code == 202
    loop.settle()
    assert client.get("/api/v1/apps/shop/rollouts/2/").json()["status"] == "succeeded"


def test_env_with_quotes_and_newlines_arrives_in_the_container_as_typed(world, loop):
    host = world.host()
    app = world.app("shop")
    world.push(app)
    value = 'it\'s "quoted"\n$HOME `x` \\ ünï\t'
    body = {"version": "1.0", "env": {"A": value}}
    assert _client(world.bob).post("/api/v1/apps/shop/rollouts/", body).status_code == 202
    loop.settle()
    (container,) = world.engine_of(host).containers.values()
    assert f"A={value}" in container.body["Env"]


def test_checks_go_in_and_come_out_whole(world):
    world.host()
    world.push(world.app("shop"))
    body = {
        "version": "1.0",
        "readiness": {"path": "/up", "text": "ok", "interval_s": 5},
        "liveness": {"command": ["/bin/alive"], "failures": 2},
        "on_failure": "restart",
        "stop_signal": "SIGINT",
    }
    client = _client(world.bob)
    assert client.post("/api/v1/apps/shop/rollouts/", body).status_code == 202
    (release,) = client.get("/api/v1/apps/shop/releases/").json()["results"]
    assert (release["health_path"], release["on_failure"], release["stop_signal"]) == ("/up", "restart", "SIGINT")
    ready, alive = release["readiness"], release["liveness"]
    assert (ready["kind"], ready["path"], ready["text"], ready["interval_s"]) == ("http", "/up", "ok", 5)
    assert (ready["statuses"], ready["timeout_s"]) == ([200, 399], 2)
    assert (alive["kind"], alive["command"], alive["failures"]) == ("command", ["/bin/alive"], 2)
    (instance,) = client.get("/api/v1/apps/shop/instances/").json()["results"]
    assert (instance["failures"], instance["restarts"], instance["last_check"]) == (0, 0, "")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"version": "9.9"}, "versions.not_found"),
        ({"version": "1.0", "instances": 0}, "releases.invalid"),
        ({"version": "1.0", "instances": 501}, "releases.invalid"),
        ({"version": "1.0", "memory_mb": 1}, "releases.invalid"),
        ({"version": "1.0", "memory_mb": 100_000}, "quota.exceeded"),
        ({"version": "1.0", "container_port": 70000}, "releases.invalid"),
        ({"version": "1.0", "health_path": "/x\r\nHost: evil"}, "releases.invalid"),
        ({"version": "1.0", "health_path": "http://169.254.169.254/"}, "releases.invalid"),
        ({"version": "1.0", "readiness": {"interval_s": 0}}, "releases.invalid"),
        ({"version": "1.0", "readiness": {"path": "/x\r\nHost: evil"}}, "releases.invalid"),
        ({"version": "1.0", "liveness": {"command": ["a\u0000"]}}, "request.invalid"),
        ({"version": "1.0", "liveness": {"kind": "udp"}}, "request.invalid"),
        ({"version": "1.0", "on_failure": "explode"}, "request.invalid"),
        ({"version": "1.0", "stop_signal": "SIGSTOP"}, "releases.invalid"),
        ({"version": "1.0", "env": {"1A": "x"}}, "releases.invalid"),
        ({"version": "1.0", "env": {"PORT": "1"}}, "releases.invalid"),
        ({"version": "1.0", "env": {"A": "x\x00"}}, "request.invalid"),
        ({"version": "1.0", "env": ["A"]}, "request.invalid"),
        ({}, "request.invalid"),
    ],
)
def test_bad_deploys_say_what_is_wrong_and_hold_nothing(world, body, code):
    world.host(memory_mb=1024)
    app = world.app("shop")
    world.push(app)
    reply = _client(world.bob).post("/api/v1/apps/shop/rollouts/", body)
    problem = reply.json()
    assert problem["code"] == code
    assert reply["Content-Type"] == "application/problem+json"
    assert (problem["status"], reply.status_code) == (reply.status_code, problem["status"])
    assert problem["detail"]
    assert not Instance.objects.exists()


@pytest.mark.parametrize(
    "slug",
    ["Shop", "my.shop", "s", "-shop", "shop-", "a--b", "1shop", "x" * 41, "shop ", "sh op", "магазин", "a/b", ""],
)
def test_a_bad_slug_is_refused_with_the_rule(world, slug):
    reply = _client(world.bob).post("/api/v1/apps/", {"tenant": "acme", "slug": slug})
    assert reply.status_code == 400
    assert reply.json()["code"] in {"slug.invalid", "request.invalid"}
    assert not App.objects.exists()


@pytest.mark.parametrize(("slug", "code"), [("admin", "slug.invalid"), ("theirs", "slug.taken")])
def test_a_slug_of_others_is_refused(world, slug, code):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    reply = _client(world.bob).post("/api/v1/apps/", {"tenant": "acme", "slug": slug})
    assert reply.json()["code"] == code


def test_a_second_deploy_while_one_runs_waits_in_the_queue_and_too_many_are_a_conflict(world):
    world.host()
    world.push(world.app("shop"))
    client = _client(world.bob)
    assert client.post("/api/v1/apps/shop/rollouts/", {"version": "1.0"}).status_code == 202
    for position in range(1, 11):
        reply = client.post("/api/v1/apps/shop/rollouts/", {"version": "1.0"})
        told = reply.json()
        assert (reply.status_code, told["status"], told["queue_position"]) == (202, "pending", position)
    reply = client.post("/api/v1/apps/shop/rollouts/", {"version": "1.0"})
    assert (reply.status_code, reply.json()["code"]) == (409, "rollouts.in_progress")
    reply = client.post("/api/v1/apps/shop/rollouts/1/cancel/")
    assert (reply.status_code, reply.json()["status"], reply.json()["code"]) == (200, "cancelled", "rollout.cancelled")
    reply = client.post("/api/v1/apps/shop/rollouts/1/cancel/")
    assert (reply.status_code, reply.json()["code"]) == (409, "rollouts.not_open")
    assert client.post("/api/v1/apps/shop/rollouts/", {"version": "1.0"}).status_code == 202


def test_a_viewer_sees_but_may_not_change(world, deployed):
    client = _client(world.vera)
    assert client.get("/api/v1/apps/shop/").status_code == 200
    for path, body in (
        ("/api/v1/apps/shop/rollouts/", {"version": "1.0"}),
        ("/api/v1/apps/shop/undeploy/", {}),
        ("/api/v1/apps/shop/rollouts/1/cancel/", {}),
        ("/api/v1/apps/", {"tenant": "acme", "slug": "other"}),
    ):
        reply = client.post(path, body)
        assert (reply.status_code, reply.json()["code"]) == (403, "permission.denied")


def _routes(patterns=None, prefix=""):
    for one in patterns if patterns is not None else get_resolver().url_patterns:
        path = prefix + str(one.pattern)
        if isinstance(one, URLResolver):
            yield from _routes(one.url_patterns, path)
        elif isinstance(one, URLPattern) and path.startswith("api/v1/"):
            yield "/" + path


ARGUMENTS = {
    "<slug:slug>": "shop",
    "<int:number>": "1",
    "<int:pk>": "1",
    "<slug:name>": "host-1",
    "<str:tag>": "1.0",
    "<str:name>": "p",
    "<int:port>": "1",
}


def _arguments():
    return {**ARGUMENTS, "<uuid:uid>": str(Instance.objects.values_list("uid", flat=True)[0])}


OWN = {
    *("/api/v1/me/", "/api/v1/tokens/", "/api/v1/tenants/", "/api/v1/apps/", "/api/v1/tokens/1/"),
    "/api/v1/base-images/",
    "/api/v1/base-images/apps/",
    "/api/v1/repositories/",
}


#: For machines, which have secrets of their own: signed in or out is the same there.
MACHINES = {"/api/v1/hosts/join/", "/api/v1/hosts/report/"}


def test_a_stranger_gets_404_from_every_address_below_another_tenants_object(world, deployed):
    client = _client(world.charlie)
    tried = 0
    for route in set(_routes()):
        path = route
        for placeholder, value in _arguments().items():
            path = path.replace(placeholder, value)
        assert "<" not in path, f"tell this test what to put into {route}"
        if path in OWN:
            continue
        if "/tenants/shop" in path:
            path = path.replace("/tenants/shop", "/tenants/acme")
        for method in ("get", "post", "put", "patch", "delete"):
            reply = getattr(client, method)(path, {"version": "1.0", "app": "shop"})
            assert reply.status_code in {404, 405}, f"{method} {path} gave {reply.status_code}"
            assert b"shop" not in reply.content or reply.status_code == 404
            tried += 1
    assert tried >= 40
    assert client.get("/api/v1/apps/").json()["results"] == []
    assert [one["slug"] for one in client.get("/api/v1/tenants/").json()["results"]] == ["rival"]
    assert client.post("/api/v1/apps/", {"tenant": "acme", "slug": "mine"}).status_code == 404


def test_signed_out_gets_401_everywhere(world, deployed):
    for route in set(_routes()):
        path = route
        for placeholder, value in _arguments().items():
            path = path.replace(placeholder, value)
        if path in MACHINES:
            assert APIClient().get(path).status_code == 405
            assert APIClient().post(path).status_code == 404
            continue
        reply = APIClient().get(path)
        assert (reply.status_code, reply.json()["code"]) == (401, "auth.required"), path


def test_a_registry_token_is_no_api_token(world):
    reply = _client(world.alice, scopes=["registry"]).get("/api/v1/me/")
    assert (reply.status_code, reply.json()["code"]) == (401, "auth.failed")


def test_a_token_is_shown_once_and_ends_when_revoked(world):
    client = _client(world.alice)
    made = client.post("/api/v1/tokens/", {"name": "ci"}).json()
    other = APIClient()
    other.credentials(HTTP_AUTHORIZATION=f"Bearer {made['secret']}")
    assert other.get("/api/v1/me/").json()["username"] == "alice"
    assert made["secret"] not in client.get("/api/v1/tokens/").content.decode()
    assert _client(world.charlie).delete(f"/api/v1/tokens/{made['id']}/").status_code == 404
    assert client.delete(f"/api/v1/tokens/{made['id']}/").status_code == 204
    assert other.get("/api/v1/me/").status_code == 401


def test_tenants_do_not_learn_the_hosts_names(world, deployed):
    for path in ("instances", "events", "rollouts"):
        assert b"host-1" not in _client(world.alice).get(f"/api/v1/apps/shop/{path}/").content


def test_lists_are_paged_by_cursor(world, deployed):
    for number in range(5):
        Event.objects.create(app_id=deployed.pk, code="x", message=str(number))
    client = _client(world.alice)
    page = client.get("/api/v1/apps/shop/events/?page_size=2").json()
    assert len(page["results"]) == 2
    following = client.get(page["next"]).json()["results"]
    assert {one["id"] for one in following}.isdisjoint({one["id"] for one in page["results"]})


def test_unknown_addresses_below_api_answer_in_the_envelope(db, client):
    reply = client.get("/api/v1/nothing/")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_the_schema_is_openapi_3_1_and_names_the_error_envelope(db, client):
    reply = client.get("/api/schema/?format=json")
    schema = reply.json()
    assert schema["openapi"].startswith("3.1")
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"], f"{method} {path}"


def test_the_docs_page_needs_no_cdn(db, client):
    page = client.get("/api/docs/")
    assert page.status_code == 200
    assert b"cdn" not in page.content.lower()
