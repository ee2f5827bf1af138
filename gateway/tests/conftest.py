"""Real parts for tests marked ``real``: each is started here, and gone at the end, also after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.tests.parts import App, Gateway, Publisher
from gateway.tests.zookeeper import ZooKeeper


@pytest.fixture(scope="session")
def shared_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    server = ZooKeeper(tmp_path_factory.mktemp("zookeeper"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_zookeeper(tmp_path: Path) -> Iterator[ZooKeeper]:
    """For tests that kill it or empty it."""
    server = ZooKeeper(tmp_path / "zookeeper")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def publisher(shared_zookeeper: ZooKeeper) -> Iterator[Publisher]:
    """An empty tree with an epoch."""
    publisher = Publisher(shared_zookeeper.hosts)
    try:
        publisher.wipe()
        publisher.build()
        yield publisher
    finally:
        publisher.close()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(zookeeper: str, **extra: str) -> Gateway:
        made.append(Gateway(tmp_path / f"gateway-{len(made)}", zookeeper, **extra))
        made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        for gateway in made:
            gateway.end()


@pytest.fixture
def gateway(publisher: Publisher, shared_zookeeper: ZooKeeper, make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(shared_zookeeper.hosts)


@pytest.fixture
def make_app() -> Iterator[Callable[[str], App]]:
    made: list[App] = []

    def make(name: str, host: str = "127.0.0.1") -> App:
        made.append(App(name, host))
        return made[-1]

    try:
        yield make
    finally:
        for app in made:
            app.close()
