"""What is counted of each version lately, and what of that is told to Prometheus and to people."""

from __future__ import annotations

import json
import tracemalloc
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.contract import ANSWER_BOUNDS_MS, WINDOWS, AppTraffic, ContractError, Window
from gateway.metrics import exposition
from gateway.status import page
from gateway.tests.test_traffic import ONE, TWO, Clock, _line
from gateway.traffic import Counters
from gateway.windows import BUSY, CELLS, Flow

OLD, NEW = "1.0", "2.0"


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = 100_000.5
    return made


@pytest.fixture
def counters(clock: Clock) -> Counters:
    made = Counters("gw1", clock, version_of=lambda app, container: {ONE: OLD, TWO: NEW}.get(container, ""))
    clock.now += 10_000
    made.assign({"shop": 0, "blog": 1})
    return made


def _windows(counters: Counters, app: str = "shop") -> dict[str, dict[str, Window]]:
    told = counters.of(app, windows=True)
    assert told is not None
    return {tag: dict(spans) for tag, spans in told.windows.items()}


def _requests(window: Window) -> int:
    return sum(window.classes.values())


def test_each_version_has_what_it_answered_lately(counters: Counters) -> None:
    counters.take([_line(ONE), _line(ONE, 404, answer=40), _line(TWO, 502), _line("<NOSRV>", 503, answer=-1)])
    found = _windows(counters)
    assert found.keys() == {OLD, NEW, ""}
    old = found[OLD]["10s"]
    assert (old.classes["2"], old.classes["4"], old.classes["5"]) == (1, 1, 0)
    assert (old.bytes_in, old.bytes_out, old.busy_ms) == (180, 1400, 8)
    assert old.histogram[bisect_left(ANSWER_BOUNDS_MS, 40)] == 1
    assert found[NEW]["1h"].classes["5"] == found[""]["1m"].classes["5"] == 1
    # What the gateway answered by itself took no instance any time.
    assert sum(found[""]["1m"].histogram) == 0


def test_what_is_older_than_a_window_is_no_more_in_it(counters: Counters, clock: Clock) -> None:
    counters.take([_line(ONE)])
    for later, there in ((9, "10s 1m 1h"), (11, "1m 1h"), (50, "1m 1h"), (61, "1h"), (3500, "1h"), (3700, "")):
        clock.now = 110_000.5 + later
        found = _windows(counters)[OLD]
        assert " ".join(name for name in WINDOWS if _requests(found[name])) == there, later


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 50)), max_size=30))
def test_a_window_holds_what_was_counted_in_its_seconds_and_no_more(moves: list[tuple[int, int]]) -> None:
    flow, now, counted = Flow([0, 0, 0]), 50_000, []
    for wait, count in moves:
        now += wait
        if flow.second != now:
            flow.roll(now)
        flow.cells[2] += count
        counted.append((now, count))
    for name, window in flow.windows(now + 0.5, 1e6).items():
        assert window.seconds <= WINDOWS[name]
        within = sum(count for at, count in counted if at >= now + 0.5 - window.seconds)
        assert window.classes["2"] == within


def test_rates_are_of_the_time_in_which_somebody_counted(clock: Clock) -> None:
    counters = Counters("gw1", clock)
    counters.assign({"shop": 0})
    clock.now += 4
    counters.take([_line(ONE)])
    told = counters.of("shop", windows=True)
    assert told is not None
    assert {name: window.seconds for name, window in told.windows[""].items()} == {"10s": 4, "1m": 4, "1h": 4}


def test_a_request_is_in_progress_for_no_longer_than_the_window_is(counters: Counters) -> None:
    counters.take([_line(ONE, everything=100_000)])
    found = _windows(counters)[OLD]
    assert {name: window.busy_ms for name, window in found.items()} == {"10s": 10_000, "1m": 60_000, "1h": 100_000}


def test_a_container_whose_version_is_not_known_yet_gets_it_later(clock: Clock) -> None:
    known: dict[str, str] = {}
    counters = Counters("gw1", clock, version_of=lambda app, container: known.get(container, ""))
    counters.assign({"shop": 0})
    counters.take([_line(ONE)])
    known[ONE] = OLD
    counters.forget({ONE})
    counters.take([_line(ONE), _line(ONE)])
    assert {tag: _requests(spans["1h"]) for tag, spans in _windows(counters).items()} == {"": 1, OLD: 2}


def test_a_version_that_left_is_forgotten_with_its_containers(counters: Counters, clock: Clock) -> None:
    counters.take([_line(ONE), _line(TWO)])
    clock.now += 3700
    counters.forget({TWO})
    counters.take([_line(TWO)])
    assert _windows(counters).keys() == {NEW}
    # What it moved still counts.
    totals: Any = counters.totals()
    assert (totals["apps"]["shop"]["bytes_out"], totals["apps"]["shop"]["busy_ms"]) == (2100, 12)


def test_windows_are_told_where_they_are_asked_for_only_and_travel_as_json(counters: Counters) -> None:
    counters.take([_line(ONE), _line(TWO, 500)])
    plain, full = counters.of("shop"), counters.of("shop", windows=True)
    assert plain is not None
    assert full is not None
    assert b"windows" not in plain.to_json()
    assert AppTraffic.from_json(full.to_json()) == full


@pytest.mark.parametrize(
    "change",
    [
        {"../x": {}},
        {OLD: {"10s": {}}},
        {OLD: {"seconds": 0}},
        {OLD: {"seconds": True}},
        {OLD: {"seconds": 1e9}},
        {OLD: {"histogram": {"50": 1}}},
        {OLD: {"histogram": {"-1": 1}}},
        {OLD: {"histogram": {"1": -1}}},
        {OLD: {"classes": {"2": 1}}},
        {OLD: {"busy_ms": -1}},
    ],
)
def test_windows_that_do_not_follow_the_contract_are_refused(counters: Counters, change: dict[str, Any]) -> None:
    counters.take([_line(ONE)])
    full = counters.of("shop", windows=True)
    assert full is not None
    body = json.loads(full.to_json())
    for tag, spans in change.items():
        held = body["windows"].setdefault(tag, {})
        if spans.keys() & WINDOWS.keys() or tag != OLD:
            body["windows"][tag] = spans
        else:
            held["1m"].update(spans)
    with pytest.raises(ContractError):
        AppTraffic.from_json(json.dumps(body).encode())


def test_a_version_that_is_busy_for_an_hour_takes_a_few_kilobytes() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flow = Flow([0, 0, 0])
        for second in range(20_000, 24_000):
            flow.roll(second)
            for cell in (2, 5, 6, 7, BUSY, CELLS - 40, CELLS - 41, CELLS - 42):
                flow.cells[cell] += 1000
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used < 16_000


STATUS = {
    "gateway": "gw1",
    "zookeeper": True,
    "served": 4711,
    "haproxy_reloads": 3,
    "haproxy_starts": 1,
    "in_force": True,
    "in_grace": False,
    "apps": 2,
    "instances": 5,
    "slots": 16,
    "tables": {"host.map": 2, "deny.map": 0},
    "access_log": {"sent": 7, "thinned": 0, "dropped": 1, "waiting": 0},
    "last_error": "<script>alert(1)</script>",
}


def test_prometheus_reads_what_the_gateway_says(counters: Counters) -> None:
    counters.take([_line(ONE), _line(ONE, 503), _line("<NOSRV>", 503, answer=-1, everything=1500)])
    text = exposition(STATUS, counters.totals(), {"agent": 1024}).decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["berth_gateway_served_zxid", ()] == 4711
    assert samples["berth_gateway_haproxy_reloads_total", ()] == 3
    assert samples["berth_gateway_table_entries", (("table", "host"),)] == 2
    assert samples["berth_gateway_resident_memory_bytes", (("process", "agent"),)] == 1024
    assert samples["berth_gateway_access_log_lines_total", (("fate", "sent"),)] == 7
    assert samples["berth_app_requests_total", (("app", "shop"), ("class", "5"))] == 2
    assert samples["berth_app_unserved_total", (("app", "shop"),)] == 1
    assert samples["berth_app_bytes_total", (("app", "shop"), ("direction", "out"))] == 2100
    assert samples["berth_app_busy_seconds_total", (("app", "shop"),)] == pytest.approx(1.508)
    # An app that nobody asks takes no line.
    assert "blog" not in text


def test_the_page_for_people_holds_no_markup_of_anybodys() -> None:
    text = page(STATUS).decode()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "tables.host.map" in text
