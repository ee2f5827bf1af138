"""One tenant, or nobody at all, against everybody: bounded work, and refusals instead of errors."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import httpx
import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from apps.core.clock import now
from apps.deployments.models import App
from apps.registry import client as registry_client
from apps.registry.models import Repository, Version
from apps.registry.reconcile import repositories_list
from apps.registry.services.tokens import MAX_REPOSITORIES, parse_scopes
from apps.registry.services.versions import repository_listed, version_pushed
from apps.tenants.services.tokens import token_create
from portal.asgi import MAX_BODY, BoundedBodies


def _basic(user, secret):
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"}


def _api(user, **values):
    _, secret = token_create(user=user, name="x", **values)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def test_thousands_of_scopes_cost_no_more_than_a_few(world, token_key, django_assert_max_num_queries):
    _, secret = token_create(user=world.charlie, name="x")
    scopes = [f"repository:app{number}:*" for number in range(3000)] + ["repository:shop:*"] * 3000
    assert len(parse_scopes(scopes)) == MAX_REPOSITORIES
    with django_assert_max_num_queries(4 * MAX_REPOSITORIES):
        reply = Client().get(
            "/api/registry/token",
            {"service": "berth-registry", "scope": scopes[:500]},
            headers=_basic("charlie", secret),
        )
    assert reply.status_code == 200


@pytest.mark.parametrize("secret", ["brt_\0" + "x" * 42, "brt_" + "é" * 43, "brt_", "x" * 100_000, "brt_" + "x" * 44])
def test_credentials_of_any_bytes_are_refused_and_break_nothing(world, secret):
    reply = Client().get("/api/registry/token", {"service": "berth-registry"}, headers=_basic("alice", secret))
    assert reply.status_code == 401


@pytest.mark.parametrize("slug", ["a" + "-b" * 39, "a" * 41, "shop\n", "a\n", "-a", "a-"])
def test_slugs_over_40_characters_or_with_a_line_end_are_refused(world, slug):
    reply = _api(world.alice).post("/api/v1/apps/", {"tenant": "acme", "slug": slug})
    assert (reply.status_code, reply.json()["code"]) == (400, "slug.invalid")


def test_a_slug_of_40_characters_is_fine(world):
    slug = "a" + "-b" * 19 + "c"
    assert len(slug) == 40
    assert _api(world.alice).post("/api/v1/apps/", {"tenant": "acme", "slug": slug}).status_code == 201


def test_a_tag_with_a_line_end_is_no_version(world):
    app = world.app()
    values = {"repository": app.slug, "media_type": "", "pushed_by": "", "pushed_at": now()}
    assert version_pushed(tag="1.0\n", digest="sha256:" + "a" * 64, **values) is None
    assert version_pushed(tag="1.0", digest="sha256:" + "a" * 64 + "\n", **values) is None
    assert not Version.objects.exists()


@pytest.mark.parametrize("slug", ["paas", "hub", "wpad", "autodiscover"])
def test_the_platforms_own_host_names_are_nobodys_app(world, settings, slug):
    settings.PLATFORM_DOMAIN = "example.com"
    settings.PORTAL_URL = "https://paas.example.com"
    settings.REGISTRY_PUBLIC = "hub.example.com:5443"
    reply = _api(world.alice).post("/api/v1/apps/", {"tenant": "acme", "slug": slug})
    assert reply.json()["code"] == "slug.invalid"
    assert not App.objects.exists()


def test_a_token_makes_no_stronger_or_longer_lived_token(world):
    ends = now() + timedelta(minutes=5)
    client = _api(world.alice, scopes=["api"], expires_at=ends)
    assert client.post("/api/v1/tokens/", {"name": "y", "scopes": ["registry"]}).status_code == 400
    later = {"name": "y", "expires_at": (ends + timedelta(days=1)).isoformat()}
    assert client.post("/api/v1/tokens/", later).status_code == 400
    made = client.post("/api/v1/tokens/", {"name": "y", "scopes": ["api", "api"]}).json()
    assert made["scopes"] == ["api"]
    assert made["expires_at"] is not None
    assert client.post("/api/v1/tokens/", {"name": "y", "scopes": ["api"] * 3000}).status_code == 400


def test_a_person_in_the_portals_session_may_make_any(world):
    client = APIClient()
    client.force_login(world.alice)
    made = client.post("/api/v1/tokens/", {"name": "y"}).json()
    assert made["scopes"] == ["api", "registry"]


def test_a_host_key_is_hidden_from_staff_who_may_only_look(world, client):
    from django.contrib.auth.models import Permission

    host = world.host(tls_key="PRIVATE-KEY-TEXT")
    token_create(user=world.bob, name="x")
    world.alice.is_staff = True
    world.alice.save()
    names = ("view_host", "view_apitoken")
    world.alice.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(world.alice)
    page = client.get(reverse("admin:hosts_host_change", args=[host.pk]))
    assert page.status_code == 200
    assert b"PRIVATE-KEY-TEXT" not in page.content
    token = world.bob.api_tokens.get()
    page = client.get(reverse("admin:tenants_apitoken_change", args=[token.pk]))
    assert page.status_code == 200
    assert token.digest.encode() not in page.content


@pytest.mark.parametrize("cursor", ["cD1hYmM=", "cD0x", "x", "cD0=", "cj0xJnA9YWJj"])
def test_a_cursor_that_was_not_made_here_is_refused(world, cursor):
    world.app()
    reply = _api(world.alice).get(f"/api/v1/apps/shop/events/?cursor={cursor}")
    assert reply.status_code in {200, 404}


def test_json_nested_without_end_is_refused(world):
    client = _api(world.alice)
    reply = client.generic("POST", "/api/v1/apps/", "[" * 200_000, content_type="application/json")
    assert (reply.status_code, reply.json()["code"]) == (400, "request.not_json")


def test_a_large_body_is_refused_in_the_envelope(world):
    client = _api(world.alice)
    reply = client.generic("POST", "/api/v1/apps/", '"' + "x" * 2_700_000 + '"', content_type="application/json")
    assert reply.status_code in {400, 413}
    assert reply["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_ends_before_it_is_kept(declared):
    sent, taken = [], 0

    async def application(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("the whole body was read")

    async def receive():
        nonlocal taken
        taken += 1_000_000
        return {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", str(MAX_BODY + 1).encode())] if declared else []
    asyncio.run(BoundedBodies(application)({"type": "http", "headers": headers}, receive, send))
    assert sent[0]["status"] == 413
    assert taken <= MAX_BODY + 1_000_000


class _Registry:
    """Answers for httpx, in process."""

    def __init__(self, monkeypatch, settings, token_key):
        self.tags = {}
        self.heads = 0
        settings.REGISTRY_CA = ""
        transport = httpx.MockTransport(self.answer)
        real = httpx.Client
        monkeypatch.setattr(
            registry_client.httpx, "Client", lambda **values: real(**{**values, "verify": True}, transport=transport)
        )

    def answer(self, request):
        repository = request.url.path.split("/")[2]
        if not repository:
            return httpx.Response(401)
        tags = self.tags[repository]
        if isinstance(tags, Exception):
            raise tags
        if request.method == "HEAD":
            self.heads += 1
            return httpx.Response(200, headers={"Docker-Content-Digest": "sha256:" + "a" * 64})
        return httpx.Response(200, json={"tags": tags})


@pytest.fixture
def registry(monkeypatch, settings, token_key):
    return _Registry(monkeypatch, settings, token_key)


def test_a_repository_that_cannot_be_listed_keeps_nobody_waiting(world, registry):
    for slug in ("one", "two", "three"):
        world.app(slug)
    registry.tags = {"one": httpx.ReadTimeout("slow"), "two": ["1.0"], "three": ValueError("nonsense")}
    assert repositories_list() == 1
    assert Version.objects.get().repository.name == "two"
    assert not Repository.objects.filter(listed_at=None).exists()


def test_a_registry_that_is_away_is_not_asked_on_and_comes_first_when_it_is_back(world, registry, monkeypatch):
    monkeypatch.setattr("apps.registry.reconcile.AT_ONCE", 1)
    for slug in ("one", "two"):
        world.app(slug)
    registry.tags = {"one": httpx.ConnectError("refused"), "two": ["1.0"]}
    assert repositories_list() == 0
    assert Repository.objects.filter(listed_at=None).count() == 2


def test_a_listing_of_too_many_tags_is_cut_and_takes_nothing_away(world, registry, monkeypatch):
    monkeypatch.setattr(registry_client, "MAX_TAGS", 10)
    app = world.app("one")
    world.push(app, "kept", "b" * 64)
    registry.tags = {"one": [f"t{number}" for number in range(500)]}
    assert repositories_list() == 1
    assert registry.heads == 10
    assert Version.objects.filter(tag="kept", is_current=True).exists()


def test_only_a_complete_listing_takes_versions_away(world):
    app = world.app("one")
    world.push(app)
    repository = Repository.objects.get()
    repository_listed(repository=repository, tags={}, asked_at=now(), complete=False)
    assert Version.objects.filter(is_current=True).exists()
    repository_listed(repository=repository, tags={}, asked_at=now())
    assert not Version.objects.filter(is_current=True).exists()
