"""What is asked of gateways, what is believed of their answers, and what happened between two of them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from apps.deployments.reconcile.clients import Clients
from apps.deployments.traffic import Traffic
from apps.deployments.verdict_data import Seen, SeenApp, app_window, percentile, window
from gateway.contract import (
    ANSWER_BOUNDS_MS,
    ANSWER_BUCKETS,
    STATUS_CLASSES,
    AppTraffic,
    ContainerTraffic,
    GatewayState,
)

OLD, NEW = "a" * 12, "b" * 12
SINCE, LATER = "0" * 36, "1" * 36


def _container(requests: int, errors: int = 0, ms: int = 10) -> ContainerTraffic:
    histogram = [0] * ANSWER_BUCKETS
    histogram[bisect_left(ANSWER_BOUNDS_MS, ms)] = requests
    return ContainerTraffic(requests, errors, tuple(histogram))


def _traffic(requests=0, *, gateway="gw-1", app="shop", since=SINCE, errors=0, **containers):
    classes = {**dict.fromkeys(STATUS_CLASSES, 0), "2": requests - errors, "5": errors}
    return AppTraffic(gateway, app, since, requests, classes, 0, 0, True, 0, containers)


class Answers:
    """A gateway's status server: ``body``, or silence until the test ends."""

    def __init__(self) -> None:
        self.body: bytes | None = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.over = threading.Event()
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers.asked.append(self.path)
                if answers.body is None:
                    answers.over.wait(10)
                    return
                self.send_response(answers.status)
                for name, value in answers.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answers.body)))
                self.end_headers()
                self.wfile.write(answers.body)

            def log_message(self, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateways() -> Iterator[list[Answers]]:
    made = [Answers(), Answers()]
    yield made
    for one in made:
        one.close()


def _states(gateways: list[Answers]) -> list[GatewayState]:
    return [GatewayState(f"gw-{number}", "e", 1, one.address) for number, one in enumerate(gateways, 1)]


def test_every_gateway_that_names_an_address_is_asked(gateways: list[Answers]) -> None:
    first, second = gateways
    first.body = _traffic(7, **{OLD: _container(7)}).to_json()
    second.body = _traffic(3, gateway="gw-2").to_json()
    found = Traffic().of("shop", [*_states(gateways), GatewayState("gw-3", "e", 1)])
    assert {name: traffic.requests for name, traffic in found.items()} == {"gw-1": 7, "gw-2": 3}
    assert found["gw-1"].containers[OLD].requests == 7
    assert first.asked == ["/stats?app=shop"]


def test_a_gateway_that_is_silent_is_left_out_within_a_second_or_so(gateways: list[Answers]) -> None:
    gateways[0].body = None
    gateways[1].body = _traffic(3, gateway="gw-2").to_json()
    began = time.monotonic()
    assert set(Traffic().of("shop", _states(gateways))) == {"gw-2"}
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        b'{"format":1}',
        _traffic(3).to_json() + b" " * 5_000_000,
        _traffic(3, gateway="gw-9").to_json(),
        _traffic(3, app="blog").to_json(),
        _traffic(3).to_json().replace(b'"requests":3', b'"requests":-3'),
    ],
)
def test_an_answer_that_is_none_is_left_out(gateways: list[Answers], body: bytes) -> None:
    gateways[0].body = body
    assert Traffic().of("shop", _states(gateways[:1])) == {}


def test_a_gateway_that_does_not_know_the_app_or_sends_elsewhere_is_left_out(gateways: list[Answers]) -> None:
    elsewhere, target = gateways
    target.body = _traffic(3).to_json()
    elsewhere.status, elsewhere.headers = 302, {"Location": f"http://{target.address}/stats?app=shop"}
    assert Traffic().of("shop", _states([elsewhere])) == {}
    assert target.asked == []
    elsewhere.status, elsewhere.headers = 404, {}
    assert Traffic().of("shop", _states([elsewhere])) == {}


def test_nothing_is_asked_about_what_is_no_app_or_at_what_is_no_address(gateways: list[Answers]) -> None:
    assert Traffic().of("../x", _states(gateways)) == {}
    assert Traffic().of("shop", [GatewayState("gw-1", "e", 1, f"{gateways[0].address}/x?")]) == {}
    assert Traffic().of("shop", []) == {}
    assert gateways[0].asked == []


def test_workers_make_one_reader_and_tests_pass_their_own(loop) -> None:
    clients = Clients()
    assert isinstance(clients.traffic, Traffic)
    assert clients.traffic is clients.traffic
    assert loop.clients.traffic.of("shop", []) == {}
    loop.traffic.count("shop", OLD, 10, errors=2, ms=40)
    before = loop.clients.traffic.of("shop", [])
    loop.traffic.count("shop", OLD, 5)
    assert window(before, loop.clients.traffic.of("shop", []), {OLD}).requests == 5


def test_between_two_looks_only_the_named_containers_count() -> None:
    before = {"gw-1": _traffic(**{OLD: _container(100, 5)}), "gw-2": _traffic(gateway="gw-2")}
    after = {
        "gw-1": _traffic(**{OLD: _container(130, 6), NEW: _container(10, 9)}),
        "gw-2": _traffic(gateway="gw-2", **{NEW: _container(4, 1, ms=900)}),
    }
    old, new = window(before, after, [OLD]), window(before, after, [NEW])
    assert (old.requests, old.errors_5xx, sum(old.histogram)) == (30, 1, 30)
    assert (new.requests, new.errors_5xx, sum(new.histogram)) == (14, 10, 14)
    assert window(before, after, []) == Seen(0, 0, (0,) * ANSWER_BUCKETS)


def test_counters_that_began_anew_count_whole() -> None:
    before = {"gw-1": _traffic(500, errors=50, **{OLD: _container(500, 50)})}
    after = {"gw-1": _traffic(600, errors=2, since=LATER, **{OLD: _container(600, 2)})}
    assert window(before, after, {OLD}).requests == 600
    assert app_window(before, after) == SeenApp(600, 2, 0, 0)


def test_a_container_that_was_forgotten_meanwhile_counts_whole() -> None:
    before = {"gw-1": _traffic(**{OLD: _container(500, 50)})}
    after = {"gw-1": _traffic(**{OLD: _container(20, 1)})}
    assert window(before, after, {OLD}) == Seen(20, 1, _container(20).histogram)


def test_a_gateway_that_was_seen_once_only_says_nothing() -> None:
    before = {"gw-1": _traffic(10, **{OLD: _container(10)})}
    after = {"gw-2": _traffic(1000, gateway="gw-2", **{OLD: _container(1000)})}
    assert window(before, after, {OLD}).requests == 0
    assert app_window(before, after).requests == 0


def test_what_an_apps_users_got_is_the_difference_too() -> None:
    before = {"gw-1": replace(_traffic(10, errors=1), unserved=1, broken=2)}
    after = {"gw-1": replace(_traffic(30, errors=4), unserved=3, broken=2)}
    assert app_window(before, after) == SeenApp(20, 3, 2, 0)


def test_a_percentile_is_read_within_its_bucket() -> None:
    def at(share: float, *times: tuple[int, int]) -> float:
        histogram = [0] * ANSWER_BUCKETS
        for ms, count in times:
            histogram[bisect_left(ANSWER_BOUNDS_MS, ms)] += count
        return percentile(histogram, share)

    assert at(0.95) == 0.0
    assert 80 <= at(0.95, (100, 90), (10, 10)) <= 100
    assert at(0.95, (10, 96), (1000, 4)) <= 10
    assert 800 < at(0.95, (10, 94), (1000, 6)) <= 1000
    assert at(1.0, (10, 1)) == 10
    # Longer than the last bound is all that is known of it.
    assert at(0.95, (999_999, 10)) == 120_000
