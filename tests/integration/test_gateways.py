"""Two real gateways: both are waited for, and one that was killed in a drain for no longer than its lease."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.deployments.discovery import Publisher as Platform
from apps.deployments.models import Gateway as Row
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.routes import gateways_observe
from apps.deployments.selectors import Publication, Published
from apps.deployments.selectors.gateways import counting_gateways, with_lag
from apps.deployments.services.routing import served_by_all
from apps.deployments.statistics import summed
from apps.deployments.traffic import Traffic
from gateway.tests.parts import GATEWAY, PUBLISHER, App, Client, Gateway, until
from gateway.tests.zookeeper import ZooKeeper

pytestmark = [pytest.mark.real, pytest.mark.django_db]


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeper]:
    server = ZooKeeper(tmp_path / "zookeeper")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def platform(zookeeper: ZooKeeper) -> Iterator[Platform]:
    made = Platform(hosts=zookeeper.hosts, credential=PUBLISHER, gateway_credential=GATEWAY)
    made.epoch_begin()
    yield made
    made.close()


@pytest.fixture
def gateways(tmp_path: Path, zookeeper: ZooKeeper, platform: Platform) -> Iterator[list[Gateway]]:
    made = [Gateway(tmp_path / name, zookeeper.hosts, BERTH_GATEWAY_ID=name) for name in ("gw-1", "gw-2")]
    try:
        for one in made:
            one.start()
        yield made
    finally:
        for one in made:
            one.end()


@pytest.fixture
def instances() -> Iterator[list[App]]:
    made = [App("one"), App("two")]
    yield made
    for one in made:
        one.close()


def _publication(*instances: App) -> Publication:
    published = tuple(Published("1.0", one.container, one.address.host, one.address.port) for one in instances)
    return Publication("shop", 1, ("shop.test",), {"1.0": 100}, published)


def _observed(clients: Clients, said: Callable[[], Any]) -> Callable[[], Any]:
    """As the platform's duty looks at gateways every second or two."""

    def look() -> Any:
        gateways_observe(clients)
        return said()

    return look


def test_a_gateway_that_is_killed_in_a_drain_holds_it_no_longer_than_its_lease(
    platform: Platform, gateways: list[Gateway], instances: list[App], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.GATEWAY_LEASE_S = 4
    monkeypatch.setattr("apps.deployments.services.routing.away", lambda: False)
    clients = Clients(discovery=platform)
    _, second = gateways
    one, two = instances
    receipt = platform.publish("shop", lambda: _publication(one, two))
    assert receipt is not None

    def served() -> bool:
        assert receipt is not None
        return served_by_all(epoch=receipt.epoch, zxid=receipt.zxid)

    until(_observed(clients, lambda: Row.objects.count() == 2 and served()), "both serve it")
    # Each counts what it answered; together they are the app.
    for gateway in gateways:
        for _ in range(5):
            Client(gateway.port).get("shop.test")
    until(
        lambda: (
            summed(Traffic().of("shop", counting_gateways(), windows=True).values(), expected=2).windows["1m"].requests
            == 10
        ),
        "both tell",
    )
    second.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    receipt = platform.publish("shop", lambda: replace(_publication(one)))
    until(_observed(clients, lambda: Row.objects.get(name="gw-1").served >= receipt.zxid), "the other one serves it")
    # Its HAProxy lives on and routes to what is being drained: as long as it may, it is waited for.
    assert not served()
    assert [row.name for row in with_lag(Row.objects.all()) if row.served < receipt.zxid] == ["gw-2"]
    until(_observed(clients, served), "its lease ends", seconds=30)
    # Its node goes with its session (2 s here), after which it is not seen any more; then the lease runs.
    assert settings.GATEWAY_LEASE_S - 1 <= time.monotonic() - killed_at <= 2 + settings.GATEWAY_LEASE_S + 8
    # One that comes back is waited for again, and has all of it in force before it says so.
    second.start()
    until(_observed(clients, lambda: Row.objects.get(name="gw-2").served >= receipt.zxid), "it is back")
    assert served()
    assert {Client(second.port).get("shop.test")[1] for _ in range(6)} == {"one"}
