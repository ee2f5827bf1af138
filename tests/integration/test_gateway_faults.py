"""What fails around the gateway, and what no client and no other tenant may notice of it: real HAProxy and ZooKeeper.

`gateway/tests/test_failures.py` has the agent's own deaths; here are longer absences, requests that must not be sent
twice, and addresses that change hands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import contract
from gateway.contract import Address
from gateway.tests.parts import App, Client, Gateway, Load, Publisher, until
from gateway.tests.zookeeper import ZooKeeper

pytestmark = pytest.mark.real
CONVERGE_SECONDS = 15.0


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeper]:
    server = ZooKeeper(tmp_path / "zookeeper")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def publisher(zookeeper: ZooKeeper) -> Iterator[Publisher]:
    publisher = Publisher(zookeeper.hosts)
    try:
        publisher.build()
        yield publisher
    finally:
        publisher.close()


@pytest.fixture
def gateway(tmp_path: Path, zookeeper: ZooKeeper, publisher: Publisher) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "gateway", zookeeper.hosts)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.end()


@pytest.fixture
def make_app() -> Iterator[Callable[[str], App]]:
    made: list[App] = []

    def make(name: str) -> App:
        made.append(App(name))
        return made[-1]

    try:
        yield make
    finally:
        for app in made:
            app.close()


def _instances(*apps: App) -> dict[str, Address]:
    return {app.container: app.address for app in apps}


Make = Callable[[str], App]


# ZooKeeper


def test_a_zookeeper_that_is_away_for_several_sessions_costs_no_request(
    gateway: Gateway, publisher: Publisher, zookeeper: ZooKeeper, make_app: Make
) -> None:
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    with Load(gateway.port, "shop.test") as load:
        zookeeper.stop()
        until(lambda: gateway.status()["zookeeper"] is False, "the gateway sees that it is gone")
        # Three of its sessions (2 s each): nothing of this gateway is left in ZooKeeper when it is back.
        began = time.monotonic()
        until(lambda: load.after(20) or time.monotonic() > began + 6, "time passes", 30)
        zookeeper.start()
        back = time.monotonic()
        other = Publisher(zookeeper.hosts)
        try:
            zxid = other.publish("shop", {"1.0": _instances(two)})
            other.await_served(zxid, CONVERGE_SECONDS)
        finally:
            other.close()
        assert time.monotonic() - back < CONVERGE_SECONDS
        load.after(50)
    assert load.failures == []
    assert gateway.get("shop.test") == (200, "two")
    assert gateway.status()["haproxy_reloads"] == 0


def test_a_killed_haproxy_is_back_with_every_route(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    apps = {f"app-{number}": make_app(f"app-{number}") for number in range(6)}
    for name, app in apps.items():
        zxid = publisher.publish(name, {"1.0": _instances(app)})
    publisher.await_served(zxid)
    killed = gateway.status()["haproxy_pid"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: gateway.status().get("haproxy_pid") not in (0, None, killed), "HAProxy is back")
    for name in apps:
        until(lambda name=name: gateway.serves(f"{name}.test"), f"{name} is served", 5)
        assert gateway.get(f"{name}.test") == (200, name)


# Requests are not sent twice


class Dying:
    """An instance that takes a whole request and dies of it: no byte of an answer."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    head = b""
                    while b"\r\n\r\n" not in head and (chunk := connection.recv(65536)):
                        head += chunk
                    if head:
                        self.methods.append(head.split(b" ", 1)[0].decode())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def dying() -> Iterator[list[Dying]]:
    made = [Dying() for _ in range(3)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_an_unsafe_request_reaches_one_instance_and_once(
    gateway: Gateway, publisher: Publisher, dying: list[Dying], method: str
) -> None:
    addresses = {f"{number:012x}": one.address for number, one in enumerate(dying)}
    publisher.await_served(publisher.publish("shop", {"1.0": addresses}))
    raw = f"{method} /pay HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
            client.sendall(raw.encode())
            assert client.recv(65536).startswith((b"HTTP/1.1 502", b"HTTP/1.1 503"))
    seen = [name for one in dying for name in one.methods]
    # Fewer than five where an instance was counted down meanwhile; never more.
    assert set(seen) == {method}
    assert len(seen) <= 5


def test_a_safe_request_goes_to_another_instance(
    gateway: Gateway, publisher: Publisher, dying: list[Dying], make_app: Make
) -> None:
    well = make_app("well")
    publisher.await_served(publisher.publish("shop", {"1.0": {"0" * 12: dying[0].address, **_instances(well)}}))
    answers = [gateway.get("shop.test") for _ in range(6)]
    assert answers == [(200, "well")] * 6
    assert dying[0].methods


# An address that changes hands (issue 6.7)


class Tenancy:
    """A port of one host: first one tenant's container listens there, then another's. Counts who asked for what."""

    def __init__(self, port: int = 0) -> None:
        self.hosts: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as reader:
            while line := reader.readline():
                if line.lower().startswith(b"host:"):
                    self.hosts.append(line[5:].strip().decode())
                if line == b"\r\n":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def end(self) -> None:
        """As a container's end: its port is free when this returns."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _reuse(publisher: Publisher, gateway: Gateway, *, quarantine: bool) -> tuple[list[str], list[str]]:
    """Shop's instance ends while the gateway is asleep, and its port goes to a container of blog's.

    ``quarantine``: only once the gateway has acknowledged, as the platform does it. Returns which hosts each was asked
    for, while clients of both asked all the time.
    """
    shop = Tenancy()
    publisher.await_served(publisher.publish("shop", {"1.0": {"a" * 12: shop.address}}))
    assert gateway.get("shop.test")[0] == 200
    stop = threading.Event()
    asking = [
        threading.Thread(target=_ask, args=(gateway.port, host, stop), daemon=True)
        for host in ("shop.test", "blog.test")
    ]
    for thread in asking:
        thread.start()
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        zxid = publisher.publish("shop", {"1.0": {}})
        shop.end()
        blog: Tenancy | None = None
        if not quarantine:
            blog = Tenancy(shop.address.port)
            until(lambda: blog and len(blog.hosts) > 20, "blog's container is asked")
    finally:
        os.kill(gateway.pid, signal.SIGCONT)
    publisher.await_served(zxid)
    if blog is None:
        blog = Tenancy(shop.address.port)
    publisher.await_served(publisher.publish("blog", {"1.0": {"b" * 12: blog.address}}))
    until(lambda: blog.hosts.count("blog.test") > 20, "blog is served")
    stop.set()
    for thread in asking:
        thread.join(20)
    blog.end()
    return shop.hosts, blog.hosts


def _ask(port: int, host: str, stop: threading.Event) -> None:
    client = Client(port)
    while not stop.is_set():
        with contextlib.suppress(Exception):
            client.get(host)
    client.close()


def test_a_reused_port_shows_nobody_anothers_container(gateway: Gateway, publisher: Publisher) -> None:
    for _ in range(3):
        of_shop, of_blog = _reuse(publisher, gateway, quarantine=True)
        assert set(of_shop) == {"shop.test"}
        assert set(of_blog) == {"blog.test"}
        publisher.await_served(publisher.remove("blog"))


def test_without_the_quarantine_it_would(gateway: Gateway, publisher: Publisher) -> None:
    """What the acknowledgement is for: the same, but the port is given away before it."""
    _, of_blog = _reuse(publisher, gateway, quarantine=False)
    assert "shop.test" in of_blog


def test_a_gateway_that_is_cut_off_acknowledges_nothing(
    gateway: Gateway, publisher: Publisher, zookeeper: ZooKeeper, make_app: Make
) -> None:
    """So that the port of what it still routes to stays in quarantine as long as it may be asked."""
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        zxid = publisher.publish("shop", {"1.0": {}})
        state = publisher.state()
        assert state is None or state.served < zxid
        assert gateway.get("shop.test") == (200, "one")
        until(lambda: publisher.state() is None, "its session is over")
        # It is not among the live ones any more, and still serves: the lease of a gateway is longer than its session.
        assert gateway.get("shop.test") == (200, "one")
    finally:
        os.kill(gateway.pid, signal.SIGCONT)
    publisher.await_served(zxid)
    assert gateway.get("shop.test")[0] == 503


def test_a_gateway_names_no_acknowledgement_of_an_earlier_session(
    gateway: Gateway, publisher: Publisher, zookeeper: ZooKeeper, make_app: Make
) -> None:
    """After a restart of the agent its node says a zxid only for what it has put in force itself."""
    one, two = make_app("one"), make_app("two")
    publisher.await_served(publisher.publish("shop", {"1.0": _instances(one)}))
    gateway.signal(signal.SIGKILL)
    zxid = publisher.publish("shop", {"1.0": _instances(two)})
    state = publisher.state()
    assert state is None or state.served < zxid
    gateway.start()
    publisher.await_served(zxid)
    assert gateway.get("shop.test") == (200, "two")
    assert isinstance(publisher.state(), contract.GatewayState)
