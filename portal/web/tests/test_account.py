"""Tokens, language."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from apps.core.clock import now
from apps.tenants.models import ApiToken
from apps.tenants.selectors import live_token
from apps.tenants.services.tokens import token_create
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, words

NEW = {"name": "laptop", "scopes": ["registry"], "expires": "30"}


def test_the_secret_is_shown_once_and_works(world: Any, browser: Browser, settings: Any) -> None:
    settings.REGISTRY_PUBLIC = "registry.example:5443"
    client = browser("alice")
    made = client.post("/account/tokens", NEW)
    assert made.status_code == 201
    assert "no-store" in made.headers["Cache-Control"]
    assert offences(made.content) == []
    found = re.search(r"brt_[\w-]{40,}", made.content.decode())
    assert found is not None
    kept = live_token(found[0], "registry")
    assert kept is not None
    assert kept.user == world.alice
    assert live_token(found[0], "api") is None
    assert "docker login registry.example:5443 -u alice" in words(made.content)
    token = ApiToken.objects.get()
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - now() < timedelta(days=31)
    for path in ("/account/", "/account/tokens"):
        assert found[0] not in client.get(path, follow=True).content.decode()


def test_a_token_may_last_for_ever(world: Any, browser: Browser) -> None:
    browser("alice").post("/account/tokens", {**NEW, "expires": ""})
    assert ApiToken.objects.get().expires_at is None


def test_a_token_needs_a_name_and_a_use(world: Any, browser: Browser) -> None:
    client = browser("alice")
    for wrong in ({**NEW, "name": ""}, {**NEW, "scopes": []}, {**NEW, "scopes": ["root"]}, {**NEW, "expires": "9"}):
        assert client.post("/account/tokens", wrong).status_code == 400
    assert not ApiToken.objects.exists()


def test_people_revoke_their_own_tokens_only(world: Any, browser: Browser) -> None:
    token, secret = token_create(user=world.alice, name="laptop")
    path = f"/account/tokens/{token.pk}/revoke"
    assert browser("bob").post(path).status_code == 404
    assert live_token(secret, "api") is not None
    assert "laptop" not in words(browser("bob").get("/account/").content)
    assert browser("alice").post(path).status_code == 302
    assert live_token(secret, "api") is None


def test_the_account_page_lists_tenants_and_roles(world: Any, browser: Browser) -> None:
    text = words(browser("bob").get("/account/").content)
    assert "Acme acme developer" in text
    assert "Rival" not in text
