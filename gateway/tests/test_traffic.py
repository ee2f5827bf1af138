"""What is counted of HAProxy's lines, and what is told of it."""

from __future__ import annotations

import json
import socket
from bisect import bisect_left
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import traffic
from gateway.contract import (
    ANSWER_BOUNDS_MS,
    ANSWER_BUCKETS,
    Address,
    AppTraffic,
    ContractError,
    GatewayState,
    Group,
    Route,
)
from gateway.listener import Listener
from gateway.tests.parts import until
from gateway.tests.zookeeper import free_port
from gateway.traffic import Counters

ONE, TWO = "0123456789ab", "0123456789ac"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(clock: Clock) -> Counters:
    made = Counters("gw1", clock)
    made.assign({"shop": 0, "blog": 1})
    return made


def _line(server: str = ONE, status: int = 200, slot: int = 0, **more: object) -> bytes:
    given = {"connect": 0, "answer": 3, "everything": 4, "retries": 0, "end": "--", "sent": 90, "got": 700, **more}
    return f"gw1 s{slot:05d} {server} {status} {' '.join(map(str, given.values()))}\n".encode()


def _of(counters: Counters, app: str = "shop") -> AppTraffic:
    told = counters.of(app)
    assert told is not None
    return told


def _bucket(milliseconds: int) -> int:
    return bisect_left(ANSWER_BOUNDS_MS, milliseconds)


def test_requests_are_counted_by_app_class_and_container(counters: Counters) -> None:
    counters.take([_line(), _line(TWO, 404), _line(TWO, 502), _line("f" * 12, slot=1)[:-1]])
    shop = _of(counters)
    assert (shop.requests, shop.unserved) == (3, 0)
    assert {name: count for name, count in shop.classes.items() if count} == {"2": 1, "4": 1, "5": 1}
    assert shop.containers[ONE].requests == 1
    assert (shop.containers[TWO].requests, shop.containers[TWO].errors_5xx) == (2, 1)
    assert _of(counters, "blog").requests == 1
    assert counters.of("unknown") is None


def test_what_no_instance_answered_is_unserved_and_a_client_that_went_away_is_not(counters: Counters) -> None:
    counters.take([_line("<NOSRV>", 503, answer=-1, end="SC"), _line("<NOSRV>", -1, answer=-1, end="CR")])
    shop = _of(counters)
    assert (shop.requests, shop.unserved, shop.containers) == (2, 1, {})
    assert (shop.classes["5"], shop.classes["0"]) == (1, 1)


def test_a_request_that_was_handed_over_counts_where_it_was_served(counters: Counters) -> None:
    handed = b"gw1 newest newest 200 0 3 3 0 -- 90 700"
    counters.take([handed, _line()])
    assert _of(counters).requests == 1
    assert counters.homeless == 0
    counters.take([b"gw1 newest newest 503 -1 -1 3 3 SC 90 700"])
    assert counters.homeless == 1


def test_an_answer_that_broke_off_is_an_error_but_not_the_end_of_a_websocket(counters: Counters) -> None:
    counters.take([_line(end="SD"), _line(TWO, 101, end="SD")])
    shop = _of(counters)
    assert (shop.broken, shop.classes["2"]) == (1, 1)
    assert (shop.containers[ONE].errors_5xx, shop.containers[TWO].errors_5xx) == (1, 0)


@pytest.mark.parametrize(
    ("line", "counted_ms"),
    [
        (_line(connect=2, answer=38, everything=9000), 40),
        (_line(connect=2000, answer=38, retries="+1"), 38),
        (_line(status=504, answer=-1, everything=120_000, end="sH"), 120_000),
        (_line(answer=999_999), 999_999),
        (_line(answer=0), 0),
        (_line(answer=1024), 1024),
    ],
)
def test_the_time_is_the_instances_own(counters: Counters, line: bytes, counted_ms: int) -> None:
    counters.take([line])
    histogram = _of(counters).containers[ONE].histogram
    assert histogram[_bucket(counted_ms)] == 1
    assert sum(histogram) == 1


@given(st.integers(0, 200_000))
def test_each_time_falls_into_the_first_bucket_that_is_not_below_it(milliseconds: int) -> None:
    counters = Counters("gw1")
    counters.assign({"shop": 0})
    counters.take([_line(answer=milliseconds)])
    assert _of(counters).containers[ONE].histogram.index(1) == _bucket(milliseconds)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"Server s00000/0123456789ab is DOWN.",
        _line().replace(b"gw1", b"gw2"),
        _line(answer="x"),
        _line("../../etc"),
        _line() + b" more",
        b"gw1 s00000 0123456789ab " + b"9" * 5000 + b" 0 3 3 0 -- 90 700",
        _line().replace(b" 700", b" x"),
    ],
)
def test_a_line_that_is_none_of_ours_changes_nothing_but_its_own_count(counters: Counters, line: bytes) -> None:
    counters.take([line, _line()])
    assert counters.malformed == 1
    assert (_of(counters).requests, list(_of(counters).containers)) == (1, [ONE])


@given(st.binary(max_size=200))
def test_no_line_at_all_raises(line: bytes) -> None:
    counters = Counters("gw1")
    counters.assign({"shop": 0})
    counters.take([line, b"gw1 " + line])


def test_a_late_line_counts_for_the_app_that_its_container_is_of(counters: Counters) -> None:
    counters.take([_line()])
    counters.assign({"blog": 0})
    counters.take([_line(), _line("<NOSRV>", 503)])
    assert _of(counters).requests == 2
    assert _of(counters, "blog").requests == 1
    assert ONE in _of(counters).containers


def test_a_slot_without_an_app_stays_with_its_last_one(counters: Counters) -> None:
    counters.assign({"blog": 1})
    counters.take([_line()])
    assert _of(counters).requests == 1


def test_what_left_is_forgotten_after_an_hour(counters: Counters, clock: Clock) -> None:
    counters.take([_line(), _line(TWO)])
    clock.now += 3000
    counters.forget({ONE, TWO})
    clock.now += 3000
    counters.forget({ONE})
    assert set(_of(counters).containers) == {ONE, TWO}
    clock.now += 601
    counters.forget({ONE})
    assert set(_of(counters).containers) == {ONE}
    counters.assign({"blog": 1})
    clock.now += 3601
    counters.forget(())
    assert counters.of("shop") is None
    counters.take([_line()])
    assert counters.homeless == 1
    assert counters.health()["containers"] == 0


def test_the_quietest_containers_make_room(counters: Counters, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MOST_CONTAINERS", 40)
    for number in range(60):
        clock.now += 1
        counters.take([_line(f"{number:012x}"), _line("f" * 12, slot=1)])
    assert len(_of(counters).containers) < 40
    assert f"{59:012x}" in _of(counters).containers
    assert f"{0:012x}" not in _of(counters).containers
    assert _of(counters, "blog").containers["f" * 12].requests == 60
    assert _of(counters).requests == 60


def test_counters_travel_as_json_and_back(counters: Counters) -> None:
    counters.take([_line(), _line(TWO, 500)])
    told = _of(counters)
    assert AppTraffic.from_json(told.to_json()) == told


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"app": "Not An App"},
        {"since": "x" * 36},
        {"requests": -1},
        {"requests": True},
        {"classes": {}},
        {"listening": 1},
        {"containers": []},
        {"containers": {"../x": {}}},
        {"containers": {ONE: {"requests": 1, "errors_5xx": 0, "histogram": [1]}}},
        {"containers": {ONE: {"requests": 1, "errors_5xx": 0, "histogram": [0.5] * ANSWER_BUCKETS}}},
    ],
)
def test_counters_that_do_not_follow_the_contract_are_refused(counters: Counters, change: dict[str, object]) -> None:
    body = json.loads(_of(counters).to_json())
    with pytest.raises(ContractError):
        AppTraffic.from_json(json.dumps({**body, **change}).encode())


def test_a_gateway_says_where_its_counters_are_and_an_older_one_is_read_all_the_same() -> None:
    state = GatewayState("gw1", "e1", 7, "10.0.0.1:8081")
    assert GatewayState.from_json(state.to_json()) == state
    older = GatewayState("gw1", "e1", 7)
    assert b"stats" not in older.to_json()
    assert GatewayState.from_json(older.to_json()) == older
    # It routes all the same, so ports must wait for it.
    assert GatewayState.from_json(state.to_json().replace(b"10.0.0.1:8081", b"evil.test/x")) == older


def test_groups_travel_with_the_route_and_a_route_without_any_is_the_text_that_it_was() -> None:
    route = Route("shop", 1, ("shop.test",), {"1.0": 100}, groups=(Group(95, (ONE,)), Group(5, (TWO,))))
    assert Route.from_json(route.to_json()) == route
    assert b"groups" not in Route("shop", 1).to_json()
    for old, new in ((b'"share":5', b'"share":101'), (TWO.encode(), ONE.encode()), (ONE.encode(), b"x y")):
        with pytest.raises(ContractError):
            Route.from_json(route.to_json().replace(old, new))


@pytest.fixture
def listened() -> Iterator[tuple[Counters, int]]:
    made, port = Counters("gw1"), free_port()
    made.assign({"shop": 0})
    listener = Listener(Address("127.0.0.1", port), made)
    listener.begin()
    try:
        until(lambda: made.listening, "the listener listens")
        yield made, port
    finally:
        listener.end()


def test_lines_are_read_from_the_socket(listened: tuple[Counters, int]) -> None:
    counters, port = listened
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(300):
            sender.sendto(_line(), ("127.0.0.1", port))
    until(lambda: _of(counters).requests == 300, "all lines are counted")
    assert counters.dropped == 0


def test_lines_that_found_no_room_are_told(listened: tuple[Counters, int], monkeypatch: pytest.MonkeyPatch) -> None:
    counters, port = listened
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, counters._lock:
        # The reader waits for the lock, as it would for a busy interpreter, and the buffer runs over.
        for _ in range(60_000):
            sent += bool(sender.sendto(_line(), ("127.0.0.1", port)))

    def all_accounted_for() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as more:
            more.sendto(b"probe", ("127.0.0.1", port))
        return counters.dropped > 0 and _of(counters).requests + counters.dropped >= sent

    until(all_accounted_for, "each line is counted or told as dropped")


def test_a_taken_port_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.listener.RETRY_SECONDS", 0.02)
    counters = Counters("gw1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        listener = Listener(Address("127.0.0.1", other.getsockname()[1]), counters)
        listener.begin()
        tried = until(lambda: listener._thread.is_alive(), "it runs")
        assert (tried, counters.listening) == (True, False)
    until(lambda: counters.listening, "it listens once the port is free")
    listener.end()
    assert not counters.listening
