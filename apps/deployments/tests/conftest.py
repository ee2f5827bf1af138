"""An app with a version, and two hosts for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.deployments.tests.imported import Ours
from apps.registry import importing
from apps.registry.tests.upstream import Upstream


@pytest.fixture
def hosts(world):
    return [world.host(), world.host()]


@pytest.fixture
def app(world, hosts):
    app = world.app()
    world.push(app)
    return app


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
