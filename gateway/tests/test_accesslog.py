"""The access log: which lines are kept, what becomes of them while Redis is away, and what a client can do to them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from gateway import accesslog
from gateway.accesslog import AccessLog
from gateway.contract import ACCESS_STREAM, AccessLine, ContractError
from gateway.tests.parts import App, Client, Gateway, Load, Publisher, until
from gateway.tests.test_traffic import ONE, Clock
from gateway.tests.zookeeper import ZooKeeper, free_port
from gateway.traffic import Counters


class Kept:
    """A stream in memory. ``broken``: as if Redis were away; ``gate``: as if it did not answer."""

    def __init__(self) -> None:
        self.lines: list[AccessLine] = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()

    def add(self, lines: Sequence[bytes]) -> None:
        self.gate.wait(20)
        if self.broken:
            raise redis.ConnectionError("away")
        self.lines += [AccessLine.from_json(line) for line in lines]

    def close(self) -> None: ...


def _line(path: bytes = b"%2Fcart", status: int = 200, slot: int = 0, server: str = ONE) -> bytes:
    counted = f"gw1 s{slot:05d} {server} {status} 0 3 4 0 -- 90 700 10.0.0.9 ={'1' * 36} =GET =shop.test ="
    return counted.encode() + path + b"\n"


@pytest.fixture
def stream() -> Kept:
    return Kept()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(stream: Kept, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[AccessLog]:
    monkeypatch.setattr(accesslog, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(accesslog, "RETRY_SECONDS", 0.01)
    made = AccessLog("gw1", stream, 100, clock)
    made.begin()
    yield made
    stream.gate.set()
    made.end()


@pytest.fixture
def counters(log: AccessLog) -> Counters:
    made = Counters("gw1", version_of=lambda app, container: "1.0", access=log.offer)
    made.assign({"shop": 0, "blog": 1})
    return made


def test_a_line_says_who_asked_for_what_and_who_answered(counters: Counters, stream: Kept) -> None:
    counters.take([_line(b"%2Fcart%2F%22x%22%0A%1B%E2%82%AC%FF"), _line(status=503, server="<NOSRV>")])
    first, second = until(lambda: len(stream.lines) == 2 and stream.lines, "both are sent")
    assert (first.gateway, first.app, first.version, first.container) == ("gw1", "shop", "1.0", ONE)
    assert (first.client, first.method, first.host, first.status) == ("10.0.0.9", "GET", "shop.test", 200)
    assert (first.wait_ms, first.took_ms, first.bytes_in, first.bytes_out) == (3, 4, 90, 700)
    assert (first.at, first.sampled, first.request) == (1_000_000, 1, "1" * 36)
    # Neither a line break nor an escape sequence is left of what a client wrote.
    assert first.path == '/cart/"x"��€�'
    assert (second.version, second.container, second.status) == ("", "", 503)


def test_the_counters_are_the_same_with_and_without_it(counters: Counters) -> None:
    counters.take([_line(), _line(b""), b"gw1 s00000 " + ONE.encode() + b" 200 0 3 4 0 -- 90 700\n"])
    told = counters.of("shop")
    assert told is not None
    assert (told.requests, counters.malformed) == (2, 1)


def test_while_redis_is_away_lines_are_dropped_and_counted_and_later_ones_arrive(
    counters: Counters, log: AccessLog, stream: Kept
) -> None:
    stream.broken = True
    counters.take([_line()] * 50)
    until(lambda: log.dropped == 50, "they are dropped")
    stream.broken = False
    counters.take([_line(b"%2Fagain")])
    until(lambda: [line.path for line in stream.lines] == ["/again"], "the next one arrives")
    assert log.health() == {"sent": 1, "thinned": 0, "dropped": 50, "waiting": 0}


def test_a_redis_that_hangs_holds_nobody_and_takes_no_more_memory_than_it_may(
    log: AccessLog, stream: Kept, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "MOST_WAITING", 30)
    stream.gate.clear()
    words = _line().split()
    log.offer("shop", "", words)
    until(lambda: log.health()["waiting"] == 0, "the thread waits for Redis")
    for _ in range(80):
        log.offer("shop", "", words)
    assert (log.health()["waiting"], log.dropped) == (30, 50)
    stream.gate.set()
    until(lambda: len(stream.lines) == 31, "what waited arrives")


def test_an_app_that_is_flooded_takes_no_other_apps_lines_and_says_how_much_was_left_out(
    log: AccessLog, stream: Kept, clock: Clock
) -> None:
    words = _line().split()
    flood, few = 5000, 20
    for _ in range(6):
        clock.now += 1
        for number in range(flood):
            log.offer("shop", "1.0", words)
            if number < few:
                log.offer("blog", "1.0", words)
        until(lambda: log.health()["waiting"] == 0, "they are sent")
    by_app = {app: [line for line in stream.lines if line.app == app] for app in ("shop", "blog")}
    assert len(by_app["blog"]) == 6 * few
    assert {line.sampled for line in by_app["blog"]} == {1}
    # Half of 100 a second each; the first seconds find out how much it is.
    last = [line for line in by_app["shop"] if line.at >= clock.now * 1000]
    assert 25 <= len(last) <= 75
    stands_for = sum(line.sampled for line in by_app["shop"])
    assert 6 * flood - 300 <= stands_for <= 6 * flood
    assert len(by_app["shop"]) + log.thinned == 6 * flood


def test_a_flood_that_nobody_expected_is_thinned_within_its_second(log: AccessLog, clock: Clock) -> None:
    words = _line().split()
    clock.now += 1
    for _ in range(50_000):
        log.offer("shop", "1.0", words)
    assert 50_000 - log.thinned < 1000


def test_lines_travel_as_json_and_back_and_others_are_refused() -> None:
    line = AccessLine(1, "gw1", "shop", "1.0", ONE, "fd00::1", "GET", "shop.test", "/", 200, 1, 2, 3, 4, "x", 5)
    assert AccessLine.from_json(line.to_json()) == line
    body = json.loads(line.to_json())
    changes: list[dict[str, Any]] = [
        {"app": "../x"},
        {"client": "localhost"},
        {"client": "1.2.3.4\n"},
        {"status": 1000},
        {"sampled": 0},
        {"version": "a/b"},
        {"container": "x y"},
        {"path": 1},
        {"took_ms": -1},
        {"format": 2},
    ]
    for change in changes:
        with pytest.raises(ContractError):
            AccessLine.from_json(json.dumps({**body, **change}).encode())


@given(st.text(max_size=400))
def test_text_of_a_client_has_nothing_that_a_terminal_obeys(text: str) -> None:
    line = AccessLine(1, "gw1", "shop", "", "", "::1", text, text, text, 200, 1, 2, 3, 4, text)
    read = AccessLine.from_json(line.to_json())
    for found in (read.method, read.host, read.path, read.request):
        assert found.isprintable()
        assert len(found) <= 256


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    server = shutil.which("redis-server") or "/usr/bin/redis-server"
    command = [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            with socket.socket() as asked:
                return asked.connect_ex(("127.0.0.1", port)) == 0

        until(answers, "Redis answers")
        yield port
    finally:
        process.kill()
        process.wait(10)


def _entries(port: int) -> list[AccessLine]:
    client: Any = redis.Redis(port=port)
    found = client.xrange(ACCESS_STREAM)
    client.close()
    return [AccessLine.from_json(fields[b"line"]) for _, fields in found]


@pytest.mark.real
def test_requests_of_a_real_gateway_stand_in_the_stream_and_none_can_be_forged(
    publisher: Publisher,
    shared_zookeeper: ZooKeeper,
    make_gateway: Callable[..., Gateway],
    make_app: Callable[..., App],
    redis_port: int,
) -> None:
    one = make_app("one")
    url = f"redis://127.0.0.1:{redis_port}/0"
    gateway = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_ACCESS_LOG_REDIS=url)
    publisher.await_served(publisher.publish("shop", {"1.0": {one.container: one.address}}))
    client = Client(gateway.port)
    client.get("shop.test", "/a%0Agw1%20s00000?token=secret", {"X-Request-ID": "mine"})
    forged = b"GET /x HTTP/1.1\r\nHost: shop.test\r\n =- =- \r\n\r\n"
    odd = b'GET /"\x27{}[]\\= HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n'
    for raw in (forged, odd, b"\x00\xff garbage\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as opened:
            opened.sendall(raw)
            opened.shutdown(socket.SHUT_WR)
            while opened.recv(4096):
                pass
    client.get("shop.test", "/last")
    lines: list[AccessLine] = until(
        lambda: (found := _entries(redis_port)) and found[-1].path == "/last" and found, "the lines are there"
    )
    first = lines[0]
    assert (first.app, first.version, first.container, first.host) == ("shop", "1.0", one.container, "shop.test")
    assert (first.client, first.method, first.status, first.path) == ("127.0.0.1", "GET", 200, "/a%0Agw1%20s00000")
    assert first.bytes_out > 0
    # The app was told the name of the request; what the client said was dropped.
    told = {name.lower(): value for name, value in one.requests[0].items()}["x-request-id"]
    assert told == first.request != "mine"
    assert all(line.app == "shop" and "secret" not in line.path for line in lines)
    status = gateway.status()
    assert status["traffic"]["malformed"] == 0
    assert gateway.traffic("shop").requests == len(lines) >= len(one.requests) == 3


@pytest.mark.real
def test_a_redis_that_dies_costs_no_request_and_no_count(
    publisher: Publisher,
    shared_zookeeper: ZooKeeper,
    make_gateway: Callable[..., Gateway],
    make_app: Callable[..., App],
) -> None:
    one = make_app("one")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        gateway = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_ACCESS_LOG_REDIS=url)
        publisher.await_served(publisher.publish("shop", {"1.0": {one.container: one.address}}))
        with Load(gateway.port, "shop.test") as load:
            until(lambda: gateway.status()["access_log"]["dropped"] > 0, "lines are dropped")
            load.after(200)
        assert load.failures == []
    until(lambda: gateway.traffic("shop").requests == len(one.requests), "each request is counted")
