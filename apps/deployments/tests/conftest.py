"""An app with a version, and two hosts for it."""

from __future__ import annotations

import pytest


@pytest.fixture
def hosts(world):
    return [world.host(), world.host()]


@pytest.fixture
def app(world, hosts):
    app = world.app()
    world.push(app)
    return app
