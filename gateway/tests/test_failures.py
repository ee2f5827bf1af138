"""Parts die, and clients do not notice: real HAProxy, real ZooKeeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from gateway import contract
from gateway.contract import Address
from gateway.frame import Frame
from gateway.haproxy import Haproxy, HaproxyError
from gateway.model import Plane
from gateway.render import configuration, maps
from gateway.tests.parts import GATEWAY, App, Gateway, Load, Publisher, until
from gateway.tests.zookeeper import ZooKeeper, free_port

pytestmark = pytest.mark.real
Make = Callable[..., App]
MakeGateway = Callable[..., Gateway]


def _instances(*apps: App) -> dict[str, Address]:
    return {app.container: app.address for app in apps}


@pytest.fixture
def own_publisher(own_zookeeper: ZooKeeper) -> Iterator[Publisher]:
    publisher = Publisher(own_zookeeper.hosts)
    try:
        publisher.build()
        yield publisher
    finally:
        publisher.close()


def test_without_zookeeper_traffic_goes_on_and_an_agent_starts_from_disk(
    own_zookeeper: ZooKeeper, own_publisher: Publisher, make_gateway: MakeGateway, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    gateway = make_gateway(own_zookeeper.hosts)
    own_publisher.await_served(own_publisher.publish("shop", {"1.0": _instances(one)}))
    with Load(gateway.port, "shop.test") as load:
        own_zookeeper.stop()
        until(lambda: gateway.status()["zookeeper"] is False, "the gateway sees that ZooKeeper is gone")
        load.after(300)
    assert load.failures == []
    assert gateway.signal(signal.SIGTERM) == 0
    assert gateway.haproxies() == []
    gateway.start()
    assert gateway.get("shop.test") == (200, "one")
    own_zookeeper.start()
    own_publisher.await_served(own_publisher.publish("shop", {"1.0": _instances(two)}), 30)
    assert gateway.get("shop.test") == (200, "two")


def test_an_emptied_zookeeper_drops_nobody_while_it_is_rebuilt(
    own_zookeeper: ZooKeeper, own_publisher: Publisher, make_gateway: MakeGateway, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    gateway = make_gateway(own_zookeeper.hosts, BERTH_GATEWAY_EPOCH_GRACE_SECONDS="3")
    for number in range(12):  # so that the emptied one is far behind
        own_publisher.publish("shop", {"1.0": _instances(one) if number % 2 else {}})
    own_publisher.await_served(own_publisher.publish("gone", {"1.0": _instances(two)}))
    with Load(gateway.port, "shop.test") as load:
        own_zookeeper.stop()
        own_zookeeper.start("emptied")
        rebuilder = Publisher(own_zookeeper.hosts)
        try:
            until(lambda: gateway.status()["zookeeper"] is True, "a new session", 40)
            until(lambda: "there is no epoch" in gateway.log(), "the gateway sees no epoch")
            load.after(100)
            rebuilder.build("epoch-2")
            until(lambda: gateway.status()["epoch"] == "epoch-2", "the new epoch")
            assert gateway.serves("gone.test")
            until(lambda: (state := rebuilder.state()) and state.epoch == "epoch-2", "the node is there")
            zxid = rebuilder.publish("shop", {"1.0": _instances(one)})
            load.after(100)
            # Nothing is acknowledged while an app of the old epoch is served.
            assert (rebuilder.state() or contract.GatewayState("", "", 1)).served == 0
            assert gateway.serves("gone.test")
            until(lambda: gateway.serves("gone.test", 404), "the grace is over")
            rebuilder.await_served(zxid)
        finally:
            rebuilder.close()
    assert load.failures == []


@pytest.mark.parametrize("part", ["haproxy_pid", "haproxy_worker_pid"])
def test_a_killed_haproxy_is_back_with_the_same_routes(
    gateway: Gateway, publisher: Publisher, make_app: Make, part: str
) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    publisher.await_served(publisher.publish("blog", {"1.0": _instances(two)}))
    killed = gateway.status()[part]
    os.kill(killed, signal.SIGKILL)
    until(lambda: gateway.status().get(part) not in (0, killed), "HAProxy is back", 10)
    until(lambda: gateway.serves("shop.test"), "the app is served", 5)
    assert gateway.get("blog.test") == (200, "two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(two)}))
    assert gateway.get("shop.test") == (200, "two")
    assert killed not in gateway.haproxies()


def test_a_killed_agent_leaves_haproxy_serving_and_the_next_one_adopts_it(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    running = gateway.haproxies()
    with Load(gateway.port, "shop.test") as load:
        gateway.signal(signal.SIGKILL)
        load.after(200)
        zxid = publisher.publish("shop", {"1.0": _instances(one, two)})
        gateway.start()
        publisher.await_served(zxid)
        load.after(200)
        assert sorted(gateway.haproxies()) == sorted(running)
        assert gateway.status()["haproxy_starts"] == gateway.status()["haproxy_reloads"] == 0
    assert load.failures == []
    assert load.answers["two"] > 0


def test_an_agent_whose_state_is_corrupt_keeps_what_haproxy_serves(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    for app in ("alpha", "beta", "shop"):
        zxid = publisher.publish(app, {"1.0": _instances(one)})
    publisher.await_served(zxid)
    publisher.await_served(publisher.remove("alpha"))
    with Load(gateway.port, "shop.test") as load:
        gateway.signal(signal.SIGKILL)
        (gateway.directory / "state.json").write_text('{"format": 1, "apps": ')
        gateway.start()
        until(lambda: gateway.status().get("served"), "everything is read and in force")
        load.after(100)
    assert load.failures == []
    assert gateway.serves("beta.test")
    assert gateway.serves("alpha.test", 404)
    assert list(gateway.directory.glob("state.json.corrupt-*"))


def test_a_stopped_agent_leaves_nothing_unless_it_is_told_to(
    publisher: Publisher, shared_zookeeper: ZooKeeper, make_gateway: MakeGateway
) -> None:
    gateway = make_gateway(shared_zookeeper.hosts)
    until(publisher.state, "the gateway's node")
    assert gateway.signal(signal.SIGTERM) == 0
    assert gateway.haproxies() == []
    assert publisher.state() is None
    keeper = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_KEEP_HAPROXY="1")
    assert keeper.signal(signal.SIGTERM) == 0
    assert len(keeper.haproxies()) == 2
    assert keeper.serves("nobody.test", 404)


def test_a_lost_session_brings_the_node_back(
    gateway: Gateway, publisher: Publisher, shared_zookeeper: ZooKeeper, make_app: Make
) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    # As an agent stopped for longer than its session: it wakes up to an expired one.
    assert gateway._process is not None
    os.kill(gateway._process.pid, signal.SIGSTOP)
    try:
        until(lambda: publisher.state() is None, "the session is over")
        zxid = publisher.publish("shop", {"1.0": {}})
    finally:
        os.kill(gateway._process.pid, signal.SIGCONT)
    publisher.await_served(zxid)
    assert gateway.get("shop.test")[0] == 503


def test_the_state_node_is_only_the_gateways_to_write(gateway: Gateway, shared_zookeeper: ZooKeeper) -> None:
    reader = KazooClient(shared_zookeeper.hosts)
    reader.start(20)
    try:
        path = contract.gateway_path("gw1")
        until(lambda: reader.exists(path), "the node")
        acls, stat = reader.get_acls(path)
        assert stat.ephemeralOwner
        assert {(acl.id.scheme, acl.id.id.split(":")[0], acl.perms) for acl in acls} == {
            ("digest", GATEWAY.split(":")[0], 31),
            ("world", "anyone", 1),
        }
    finally:
        reader.stop()
        reader.close()


def test_a_second_agent_does_not_start_in_the_same_directory(gateway: Gateway) -> None:
    environment = {"PATH": os.environ["PATH"], **gateway._environment}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert b"another agent" in done.stdout
    assert gateway.healthy()


def test_a_very_long_directory_is_no_problem(
    publisher: Publisher, shared_zookeeper: ZooKeeper, tmp_path: Path, make_app: Make
) -> None:
    gateway = Gateway(tmp_path / ("long-" * 20) / ("path-" * 20), shared_zookeeper.hosts)
    try:
        gateway.start()
        publisher.await_served(publisher.publish("shop", {"1.0": _instances(make_app("one"))}))
        assert gateway.get("shop.test") == (200, "one")
    finally:
        gateway.end()


def test_a_refused_configuration_keeps_the_running_one(tmp_path: Path) -> None:
    directory = tmp_path / "haproxy"
    directory.mkdir()
    haproxy = Haproxy(directory, Path("/usr/sbin/haproxy"))
    frame = Frame(Address("127.0.0.1", free_port()), 1, 500, Address("127.0.0.1", free_port()), "gw1")
    good = configuration(frame, Plane(2))
    try:
        haproxy.start(good, maps(Plane(2)))
        worker = haproxy.worker
        with pytest.raises(HaproxyError, match="refused"):
            haproxy.reload(good.replace("mode http", "mode nonsense"), maps(Plane(2)))
        # Valid, but it cannot be put in force: the address is not this machine's.
        with pytest.raises(HaproxyError):
            haproxy.reload(good.replace("bind 127.0.0.1", "bind 192.0.2.1"), maps(Plane(2)))
        assert haproxy.workers().current == worker
        assert (directory / "haproxy.cfg").read_text() == good
        haproxy.reload(good, maps(Plane(2)))
        assert haproxy.worker != worker
    finally:
        haproxy.stop(0)
        haproxy.close()
    assert not haproxy.alive()
