from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from apps.registry import client, importing
from apps.registry.tests.imported import Ours
from apps.registry.tests.registry import Shop
from apps.registry.tests.upstream import Upstream


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


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Ours:
    made = Ours()
    monkeypatch.setattr(importing, "Push", made)
    return made


@pytest.fixture
def there(settings: Any) -> Iterator[Upstream]:
    settings.GUARD_ALLOW, settings.GUARD_HTTP = ["127.0.0.1/32"], True
    made = Upstream().start()
    yield made
    made.shutdown()
    made.server_close()
