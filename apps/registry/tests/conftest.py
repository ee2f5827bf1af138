from __future__ import annotations

import httpx
import pytest

from apps.registry import client
from apps.registry.tests.registry import Shop


@pytest.fixture
def shop(world, token_key, monkeypatch):
    """The app "shop", and what the registry holds of it."""
    world.app("shop")
    fake = Shop()
    real = httpx.Client
    monkeypatch.setattr(
        client.httpx,
        "Client",
        lambda **values: real(**{**values, "verify": False}, transport=httpx.MockTransport(fake)),
    )
    return fake
