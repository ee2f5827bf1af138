"""What clients see while apps come, change and go: real HAProxy, real ZooKeeper."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from gateway import contract
from gateway.tests.parts import App, Client, Gateway, Load, Publisher, until

pytestmark = pytest.mark.real
Make = Callable[..., App]


def _instances(*apps: App) -> dict[str, contract.Address]:
    return {app.container: app.address for app in apps}


def test_a_new_route_is_served_round_robin(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one, two)}))
    client = Client(gateway.port)
    answers = Counter(client.get("shop.test")[1] for _ in range(40))
    assert answers == {"one": 20, "two": 20}
    assert client.get("SHOP.test.:8080")[0] == 200


def test_an_ipv6_instance_is_served(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(make_app("six", "::1"))}))
    assert gateway.get("shop.test") == (200, "six")


def test_a_removed_instance_gets_no_request_after_the_acknowledgement(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one, two)}))
    with Load(gateway.port, "shop.test") as load:
        for _ in range(15):
            publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
            # What was on its way when the acknowledgement came was accepted by the instance before it.
            reached = len(two.requests)
            load.after(100)
            assert len(two.requests) == reached
            publisher.await_served(publisher.publish("shop", {"1.0": _instances(one, two)}))
            load.after(100)
            assert len(two.requests) > reached
    assert load.failures == []
    assert load.answers["two"] > 0


def test_a_request_in_progress_finishes_when_its_instance_is_removed(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    one.gate = threading.Event()
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    answers: list[tuple[int, str]] = []
    waiting = threading.Thread(target=lambda: answers.append(gateway.get("shop.test", "/slow")), daemon=True)
    waiting.start()
    assert one.entered.wait(10)
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(two)}))
    # As soon as it is acknowledged, so that nobody stops the instance in between.
    assert gateway.traffic("shop").busy == {one.container: 1}
    assert gateway.get("shop.test") == (200, "two")
    one.gate.set()
    waiting.join(10)
    assert answers == [(200, "one")]
    until(lambda: gateway.traffic("shop").busy == {}, "the last request to be noticed")


def test_a_client_that_sticks_to_an_instance_leaves_it_too(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    one.status = two.status = 401  # after which HAProxy keeps a connection with its server
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    client = Client(gateway.port)
    assert client.get("shop.test") == (401, "one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(two)}))
    assert [client.get("shop.test")[1] for _ in range(5)] == ["two"] * 5


def test_an_instance_that_returns_at_once_is_served_again(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two, three = make_app("one"), make_app("two"), make_app("three")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one, two)}))
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(two)}))
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    assert {gateway.get("shop.test")[1] for _ in range(6)} == {"one"}
    # The same container at another address: the publisher removes and writes it anew.
    publisher.await_served(publisher.publish("shop", {"1.0": {}}))
    publisher.await_served(publisher.publish("shop", {"1.0": {one.container: three.address}}))
    assert {gateway.get("shop.test")[1] for _ in range(6)} == {"three"}


def test_an_unknown_host_is_404_and_an_app_without_instances_503(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    client = Client(gateway.port)
    status, body, headers = client.fetch("nobody.test")
    assert (status, headers["cache-control"]) == (404, "no-store")
    assert "No app answers to this host name" in body
    publisher.await_served(publisher.publish("empty", {}))
    status, body, headers = client.fetch("empty.test")
    assert (status, headers["retry-after"], headers["content-type"]) == (503, "5", "text/html; charset=utf-8")
    assert "Not available right now" in body
    publisher.await_served(publisher.remove("empty"))
    assert client.get("empty.test")[0] == 404


def test_an_app_that_is_scaled_to_zero_says_so_until_it_has_an_instance(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    client = Client(gateway.port)
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    worker = gateway.status()["haproxy_worker_pid"]
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}, policy=contract.Policy(asleep=True)))
    status, body, headers = client.fetch("shop.test")
    assert (status, headers["retry-after"], headers["cache-control"]) == (503, "60", "no-store")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "scaled to zero instances" in body
    # An instance that is still there, or there again, answers whatever the policy says.
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}, policy=contract.Policy(asleep=True)))
    assert client.get("shop.test") == (200, "one")
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}))
    assert "Not available right now" in client.get("shop.test")[1]
    assert gateway.status()["haproxy_worker_pid"] == worker


def test_an_app_sleeps_on_over_a_restart_of_haproxy(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}, policy=contract.Policy(asleep=True)))
    killed = gateway.status()["haproxy_pid"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: gateway.status().get("haproxy_pid") not in (0, killed), "HAProxy is back", 10)
    until(lambda: gateway.serves("shop.test", 503), "it answers again", 10)
    assert "scaled to zero" in gateway.get("shop.test")[1]
    # What was read from the file can be taken back at run time.
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(make_app("one"))}))
    assert gateway.get("shop.test") == (200, "one")
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}))
    assert "Not available right now" in gateway.get("shop.test")[1]


def test_a_dead_instance_is_passed_over(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one, two)}))
    with Load(gateway.port, "shop.test") as load:
        two.close()
        load.after(300)
    assert load.failures == []


def test_versions_get_their_shares(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    old = [make_app(f"old{number}") for number in range(3)]
    new = make_app("new")
    versions = {"1.0": _instances(*old), "2.0": _instances(new)}
    client = Client(gateway.port)

    def share(weights: dict[str, int]) -> int:
        publisher.await_served(publisher.publish("shop", versions, weights))
        return sum(client.get("shop.test")[1] == "new" for _ in range(200))

    assert share({"1.0": 100, "2.0": 0}) == 0
    assert share({"1.0": 90, "2.0": 10}) == pytest.approx(20, abs=6)
    assert share({"1.0": 50, "2.0": 50}) == pytest.approx(100, abs=6)
    assert share({"1.0": 0, "2.0": 100}) == 200


def test_two_releases_of_one_version_get_shares_of_their_own(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    old, new = make_app("old"), make_app("new")
    client = Client(gateway.port)

    def share(of_old: int, of_new: int) -> int:
        groups = (contract.Group(of_old, (old.container,)), contract.Group(of_new, (new.container,)))
        publisher.await_served(publisher.publish("shop", {"1.0": _instances(old, new)}, groups=groups))
        return sum(client.get("shop.test")[1] == "new" for _ in range(200))

    assert share(100, 0) == 0
    assert share(90, 10) == pytest.approx(20, abs=6)
    assert share(0, 100) == 200


def test_a_client_cannot_say_where_it_comes_from(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    lies = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https", "X-Real-IP": "1.2.3.4", "Forwarded": "x"}
    assert Client(gateway.port).get("shop.test", headers=lies)[0] == 200
    seen = {name.lower(): value for name, value in one.requests[-1].items()}
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert "x-real-ip" not in seen
    assert "forwarded" not in seen


def test_what_does_not_follow_the_contract_changes_nothing(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    evil = b'{"format":1,"app":"shop","revision":9,"domains":["a.test s00000\\nquit"],"weights":{}}'
    publisher.client.set(contract.route_path("shop"), evil)
    for name, value in (("bad", b"[" * 100_000), ("Not_An_App", b"{}"), ("other", b"\xff\n; shutdown frontend")):
        publisher.client.create(f"{contract.ROUTE_PATH}/{name}", value, acl=publisher.acl)
    base = contract.version_path("shop", "1.0")
    publisher.client.create(f"{base}/0123456789ab", b"127.0.0.1:1 weight 256", acl=publisher.acl)
    publisher.client.create(f"{base}/0123456789ac", b"[fe80::1%x\n  server y 1.1.1.1]:80", acl=publisher.acl)
    publisher.client.create(f"{base}/x y; quit", b"127.0.0.1:1", acl=publisher.acl)
    publisher.await_served(publisher.client.last_zxid)
    assert {gateway.get("shop.test")[1] for _ in range(5)} == {"one"}
    assert gateway.status()["instances"] == 1
    # A good publication is followed again, and the bad instances never get in.
    two = make_app("two")
    publisher.await_served(publisher.publish("good", {"1.0": _instances(two)}))
    assert gateway.get("good.test") == (200, "two")
    files = "".join((gateway.directory / name).read_text() for name in ("haproxy.cfg", "host.map", "state.json"))
    assert not any(word in files for word in ("quit", "weight 256", "shutdown", "1.1.1.1", "a.test", "0123456789ab"))


def test_running_out_of_slots_reloads_without_a_failure(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    with Load(gateway.port, "shop.test") as load:
        reloads = 0
        for number in range(40):
            zxid = publisher.publish(f"app{number}", {"1.0": _instances(one)})
        publisher.await_served(zxid)
        load.after(200)
        for number in range(40, 60):
            zxid = publisher.publish(f"app{number}", {"1.0": _instances(one)})
        publisher.await_served(zxid)
        reloads = gateway.status()["haproxy_reloads"]
        load.after(200)
    assert reloads >= 2
    assert load.failures == []
    assert all(gateway.serves(f"app{number}.test") for number in range(60))


def test_a_replaced_worker_does_not_serve_a_removed_instance(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    """Its idle keep-alive connections are still its own after a reload."""
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    idle = Client(gateway.port)
    assert idle.get("shop.test") == (200, "one")
    before = gateway.status()["haproxy_worker_pid"]
    for number in range(20):
        zxid = publisher.publish(f"app{number}", {"1.0": _instances(one)})
    publisher.await_served(zxid)
    assert gateway.status()["haproxy_worker_pid"] != before
    assert before in gateway.haproxies()
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(two)}))
    assert idle.get("shop.test") == (200, "two")
    until(lambda: before not in gateway.haproxies(), "the replaced worker is gone")


def test_acknowledgements_of_a_burst_come_at_once(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    """Publications that overtake a fence are not left to the acknowledgement that comes when it is quiet."""
    one = make_app("one")
    for _ in range(10):
        for number in range(5):
            zxid = publisher.publish(f"app{number}", {"1.0": _instances(one)})
        publisher.await_served(zxid, seconds=2)
