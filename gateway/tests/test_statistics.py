"""Counters of a real gateway: what HAProxy did is what they say, over reloads and restarts."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from gateway import contract
from gateway.tests.parts import App, Client, Gateway, Load, Publisher, until
from gateway.tests.zookeeper import ZooKeeper, free_port

pytestmark = pytest.mark.real
Make = Callable[..., App]


def _instances(*apps: App) -> dict[str, contract.Address]:
    return {app.container: app.address for app in apps}


def _counted(gateway: Gateway, app: str, requests: int) -> contract.AppTraffic:
    until(lambda: gateway.traffic(app).requests >= requests, f"{requests} requests of {app} are counted")
    found = gateway.traffic(app)
    assert found.requests == requests
    return found


def test_each_request_counts_for_its_app_and_its_container(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two, other = make_app("one"), make_app("two"), make_app("other")
    publisher.publish("shop", {"1.0": _instances(one, two)})
    publisher.publish("empty", {})
    publisher.await_served(publisher.publish("blog", {"1.0": _instances(other)}))
    two.status = 500
    client = Client(gateway.port)
    for _ in range(10):
        client.get("shop.test")
    for _ in range(3):
        client.get("blog.test")
        client.get("empty.test")
        client.get("nobody.test")
    shop = _counted(gateway, "shop", 10)
    assert (shop.classes["2"], shop.classes["5"], shop.unserved) == (5, 5, 0)
    good, bad = shop.containers[one.container], shop.containers[two.container]
    assert (good.requests, good.errors_5xx, bad.requests, bad.errors_5xx) == (5, 0, 5, 5)
    assert sum(good.histogram) == 5
    assert (shop.gateway, shop.listening, shop.dropped) == ("gw1", True, 0)
    assert set(_counted(gateway, "blog", 3).containers) == {other.container}
    assert _counted(gateway, "empty", 3).unserved == 3
    assert gateway.ask("/stats?app=nobody")[0] == gateway.ask("/stats?app=../x")[0] == 404
    totals = json.loads(gateway.ask("/stats")[1])
    assert {app: counts["requests"] for app, counts in totals["apps"].items()} == {"shop": 10, "blog": 3, "empty": 3}
    assert (totals["homeless"], totals["malformed"]) == (3, 0)
    state = publisher.state()
    assert state is not None
    assert state.stats == f"127.0.0.1:{gateway.status_port}"


def test_an_instance_that_hangs_up_is_an_error_of_its_own_and_nobody_there_is_unserved(
    gateway: Gateway, publisher: Publisher
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:
        address = contract.Address("127.0.0.1", rude.getsockname()[1])

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    rude.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        publisher.await_served(publisher.publish("shop", {"1.0": {"0123456789ab": address}}))
        assert gateway.get("shop.test")[0] == 502
        shop = _counted(gateway, "shop", 1)
        assert (shop.unserved, shop.containers["0123456789ab"].errors_5xx) == (0, 1)
        rude.shutdown(socket.SHUT_RDWR)
    assert gateway.get("shop.test")[0] == 503
    shop = _counted(gateway, "shop", 2)
    assert (shop.unserved, shop.classes["5"]) == (1, 2)


def test_over_a_reload_and_a_hand_over_each_request_counts_once(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    idle = Client(gateway.port)
    assert idle.get("shop.test") == (200, "one")
    with Load(gateway.port, "shop.test") as load:
        reloads = gateway.status()["haproxy_reloads"]
        for number in range(20):
            zxid = publisher.publish(f"app{number}", {"1.0": _instances(one)})
        publisher.await_served(zxid)
        load.after(200)
    assert gateway.status()["haproxy_reloads"] > reloads
    # The replaced worker still has this connection, and hands its request to the newest.
    assert idle.get("shop.test") == (200, "one")
    assert load.failures == []
    shop = _counted(gateway, "shop", len(one.requests))
    assert shop.containers[one.container].requests == shop.classes["2"] == len(one.requests)


def test_a_taken_port_disturbs_no_request_and_is_told(
    publisher: Publisher, shared_zookeeper: ZooKeeper, make_gateway: Callable[..., Gateway], make_app: Make
) -> None:
    one = make_app("one")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        gateway = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_LOG_BIND=f"127.0.0.1:{taken.getsockname()[1]}")
        publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
        with Load(gateway.port, "shop.test") as load:
            load.after(100)
        assert load.failures == []
        shop = gateway.traffic("shop")
        assert (shop.listening, shop.requests) == (False, 0)
        # What the other program gets holds nothing of the request.
        assert b"shop" not in taken.recv(2048)


def test_counters_begin_anew_with_the_agent_and_an_adopted_haproxy_follows_its_settings(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    gateway.get("shop.test")
    before = _counted(gateway, "shop", 1)
    with Load(gateway.port, "shop.test") as load:
        gateway.signal(signal.SIGKILL)
        gateway.set("BERTH_GATEWAY_LOG_BIND", f"127.0.0.1:{free_port()}")
        gateway.start()
        until(lambda: gateway.traffic("shop").requests > 100, "the adopted HAProxy tells the new agent")
        # Its new worker tells while the agent still waits for it to answer.
        until(lambda: gateway.status()["haproxy_reloads"] == 1, "the reload to be over")
    assert load.failures == []
    assert gateway.status()["haproxy_starts"] == 0
    assert gateway.traffic("shop").since != before.since
