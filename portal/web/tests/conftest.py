"""What the pages' tests share: everybody's browser, and an app with something to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

Browser = Callable[[str], Client]


@pytest.fixture
def browser(world: Any) -> Browser:
    """A client that is signed in as the person named; ``""`` is somebody signed out."""

    def make(name: str) -> Client:
        client = Client()
        if name:
            client.force_login(getattr(world, name), backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make


@pytest.fixture
def shop(world: Any) -> Any:
    """Acme's app, with room on a host and one version pushed; nothing is deployed."""
    world.host()
    app = world.app("shop")
    world.push(app, "1.0")
    return app


def instances_add(world: Any, app: Any, count: int) -> None:
    """Rows of healthy instances of the app's newest release, without claims: for pages only."""
    from apps.deployments.models import Instance, Release, ReplicaSet
    from apps.hosts.models import Host
    from apps.registry.models import Version

    version = Version.objects.filter(repository__name=app.slug).first()
    number = app.releases.count() + 1
    release = Release.objects.create(app=app, number=number, version=version, env={"SECRET": "do-not-show"})
    wanted = ReplicaSet.objects.create(app=app, release=release, wanted=count, weight=100)
    host = Host.objects.first()
    Instance.objects.bulk_create(
        Instance(app=app, replica_set=wanted, host=host, port=20000 + at, status="healthy") for at in range(count)
    )
