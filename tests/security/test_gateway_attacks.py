"""Attacks on the real gateway: who attacks is turned away, another tenant never sees a byte, and others are served.

What they cost others in milliseconds, the benchmark measures (``make bench-gateway``, part attacks).
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.tests.parts import Client, Gateway, Load, Publisher, until
from gateway.tests.zookeeper import ZooKeeper
from tests.security.gateway_corpus import CORPUS, Recorder, talk

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    server = ZooKeeper(tmp_path_factory.mktemp("zookeeper"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def served(zookeeper: ZooKeeper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Publisher]]:
    """One gateway for all attacks: what one of them breaks, the next one notices."""
    publisher = Publisher(zookeeper.hosts)
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), zookeeper.hosts)
    try:
        publisher.build()
        gateway.start()
        yield gateway, publisher
    finally:
        gateway.end()
        publisher.close()


@pytest.fixture(scope="module")
def backends(served: tuple[Gateway, Publisher]) -> Iterator[tuple[Recorder, Recorder]]:
    """Shop's, and another tenant's."""
    shop, other = Recorder(), Recorder()
    _, publisher = served
    try:
        publisher.publish("shop", {"1.0": {"a" * 12: shop.address}})
        publisher.await_served(publisher.publish("other", {"1.0": {"b" * 12: other.address}}))
        yield shop, other
    finally:
        shop.close()
        other.close()


@pytest.fixture
def gateway(served: tuple[Gateway, Publisher], backends: tuple[Recorder, Recorder]) -> Gateway:
    """Quiet: nothing of an earlier test is in the backends' records."""
    for backend in backends:
        backend.clear()
    return served[0]


# Smuggling


@pytest.mark.parametrize("name", CORPUS)
def test_no_request_is_smuggled(gateway: Gateway, backends: tuple[Recorder, Recorder], name: str) -> None:
    shop, other = backends
    statuses = talk(gateway.port, CORPUS[name])
    assert other.requests == []
    assert not other.received
    assert shop.ambiguous == []
    # Each request that an instance saw, the gateway knows of: it has answered it itself.
    assert len(shop.requests) == statuses.count(200) <= 1
    assert not any(b"smuggled" in line for line in shop.requests)
    # What follows on the connection to the instance is still the next client's own.
    assert gateway.get("shop.test", "/after")[0] == 200
    assert shop.requests[-1] == b"GET /after HTTP/1.1"


def test_the_corpus_would_be_noticed(gateway: Gateway, backends: tuple[Recorder, Recorder]) -> None:
    """A proxy that passes everything on, as a TCP relay would: the checks above must see it."""
    shop, _ = backends
    talk(shop.address.port, CORPUS["CL.TE"])
    talk(shop.address.port, CORPUS["two lengths"])
    assert len(shop.ambiguous) == 2


# Host headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("shop.test:80", 200),
        ("shop.test.", 200),
        ("SHOP.TEST", 200),
        ("shop.test:80:80", 200),
        ("user@shop.test", 404),
        ("other.test@shop.test", 404),
        ("shop.test@other.test", 404),
        ("[::1]", 404),
        ("[::1]:80", 404),
        ("[shop.test]", 404),
        ("shop.test/", 404),
        ("shop.test/../other.test", 404),
        ("shop.test,other.test", 404),
        ("shop.test, other.test", 404),
        ("other.test shop.test", 404),
        ("shop.test?other.test", 404),
        ("shop.test#other.test", 404),
        ("http://shop.test", 404),
        ("*.test", 404),
        ("", 404),
        (".", 404),
        ("shop.test%00.other.test", 404),
        ("sh\u00f6p.test", 404),
        ("127.0.0.1", 404),
    ],
)
def test_a_host_is_the_apps_name_or_nobodys(
    gateway: Gateway, backends: tuple[Recorder, Recorder], host: str, status: int
) -> None:
    shop, other = backends
    raw = b"GET /who HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\nConnection: close\r\n\r\n"
    (answered,) = talk(gateway.port, raw)
    # Refusing is as good as not knowing; another's instance is not.
    assert answered == status or (status == 404 and answered == 400)
    assert other.requests == []
    assert len(shop.requests) == (1 if status == 200 else 0)


def test_ten_thousand_unknown_hosts_are_turned_away_and_nobody_else_is(
    gateway: Gateway, backends: tuple[Recorder, Recorder]
) -> None:
    with Load(gateway.port, "other.test", clients=2) as load:
        client = Client(gateway.port)
        answers = Counter(client.get(f"{number:05d}.unknown.test")[0] for number in range(10_000))
        load.after(50)
    assert answers == {404: 10_000}
    assert load.failures == []
    assert backends[0].requests == []


# Sizes


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        ("one of 32 KB", [("X-Big", "x" * 32_768)]),
        ("one of 15.9 KB", [("X-Big", "x" * 15_900)]),
        ("many of them", [(f"X-{number}", "y") for number in range(1000)]),
        ("a name of 20 KB", [("X-" + "n" * 20_000, "y")]),
        ("a cookie of 1 MB", [("Cookie", "c=" + "x" * 1_000_000)]),
    ],
)
def test_oversized_headers_are_refused_before_an_instance_sees_them(
    gateway: Gateway, backends: tuple[Recorder, Recorder], what: str, headers: list[tuple[str, str]]
) -> None:
    raw = "GET / HTTP/1.1\r\nHost: shop.test\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    statuses = talk(gateway.port, raw.encode() + b"\r\n")
    assert statuses in ([400], [431], [])  # []: cut off while it still sent
    assert backends[0].requests == []
    assert gateway.get("shop.test")[0] == 200


def test_an_oversized_target_is_refused(gateway: Gateway, backends: tuple[Recorder, Recorder]) -> None:
    raw = b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"
    assert talk(gateway.port, raw) in ([400], [414], [])
    assert backends[0].requests == []


# Slowness


def _slow(port: int, count: int, begin: bytes) -> list[socket.socket]:
    opened = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 5)
        connection.sendall(begin)
        connection.setblocking(False)
        opened.append(connection)
    return opened


def _ended(connections: list[socket.socket]) -> int:
    """How many of them the other end has answered or closed."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def test_slow_heads_are_ended_and_others_are_served_meanwhile(
    gateway: Gateway, backends: tuple[Recorder, Recorder]
) -> None:
    _enough_descriptors()
    slow = _slow(gateway.port, 1000, b"GET / HTTP/1.1\r\nHost: shop.test\r\nX-Slow: ")
    try:
        with Load(gateway.port, "other.test") as load:

            def all_ended() -> bool:
                # One byte more now and then does not win them time.
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.send(b"a")
                load.after(20)
                return _ended(slow) == len(slow)

            until(all_ended, "slow connections are ended", 40)
        assert load.failures == []
    finally:
        for connection in slow:
            connection.close()
    assert backends[0].requests == []


def test_slow_bodies_hold_no_other_request_up(gateway: Gateway, backends: tuple[Recorder, Recorder]) -> None:
    _enough_descriptors()
    begin = b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000\r\n\r\n"
    slow = _slow(gateway.port, 300, begin)
    try:
        with Load(gateway.port, "other.test") as load:
            load.after(500)
            assert gateway.get("shop.test")[0] == 200
        assert load.failures == []
    finally:
        for connection in slow:
            connection.close()


def test_connections_that_say_nothing_hold_nobody_up(gateway: Gateway, backends: tuple[Recorder, Recorder]) -> None:
    _enough_descriptors()
    slow = _slow(gateway.port, 1000, b"")
    try:
        with Load(gateway.port, "other.test") as load:
            until(lambda: load.after(20) or _ended(slow) == len(slow), "silent connections are ended", 40)
        assert load.failures == []
    finally:
        for connection in slow:
            connection.close()


def _enough_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
