"""The event stream of a Docker Engine: what its lines mean, and what becomes of connections that die in silence."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from apps.hosts.engines.base import EngineError, EngineUnreachable, EventKind
from apps.hosts.engines.docker_events import read, stream

AT = 1_790_000_000_123_456_789


def event(**changes: Any) -> dict[str, Any]:
    """As Docker Engine 20.10 says that a container of ours ended."""
    labels = {
        "berth.app": "shop",
        "berth.instance": "abc",
        "berth.platform": "test",
        "exitCode": "137",
        "name": "berth-test-shop-abc",
    }
    return {
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": "c" * 64, "Attributes": {**labels, **changes.pop("labels", {})}},
        "time": AT // 10**9,
        "timeNano": AT,
        **changes,
    }


def line(**changes: Any) -> bytes:
    return json.dumps(event(**changes)).encode()


def test_an_end_is_read_with_its_exit_code_and_its_time_to_the_nanosecond() -> None:
    found, at = read(line(), "test")
    assert found is not None
    assert (found.kind, found.instance, found.name) == (EventKind.DIE, "abc", "berth-test-shop-abc")
    assert (found.exit_code, at) == (137, AT)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"name": "berth-test-shop-other"}},
        {"labels": {"name": "/etc/passwd"}},
        {"labels": {"berth.instance": "../../info", "name": "berth-test-shop-../../info"}},
        {"labels": {"berth.instance": None}},
        {"Type": "network"},
        {"Action": "exec_start: sh"},
        {"Action": None},
        {"Actor": None},
        {"Actor": {"Attributes": ["name"]}},
    ],
)
def test_what_is_not_about_a_container_of_ours_is_no_event_but_moves_the_time_on(changes: dict[str, Any]) -> None:
    assert read(line(**changes), "test") == (None, AT)
    assert read(line(), "other") == (None, AT)


@given(
    st.one_of(
        st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
)
def test_no_line_is_odd_enough_to_break_the_stream(odd: bytes) -> None:
    assert read(odd, "test")[0] is None


def test_an_odd_exit_code_is_none() -> None:
    for code in ("", "x", "-1", "٣", "9" * 5000):
        found, _ = read(line(labels={"exitCode": code}), "test")
        assert found is not None
        assert found.exit_code is None


class Fake(ThreadingHTTPServer):
    """An engine whose answers are written by the test: (status, lines, whether it stays open in silence)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: list[tuple[int, list[bytes], bool]] = []
        self.asked: list[dict[str, list[str]]] = []
        self.over = threading.Event()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked has gone
            super().handle()

    def do_GET(self) -> None:
        self.server.asked.append(parse_qs(urlsplit(self.path).query))
        status, lines, silent = self.server.answers.pop(0)
        if not status:
            self.server.over.wait(20)
            return
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for one in lines:
            self.wfile.write(f"{len(one):x}\r\n".encode() + one + b"\r\n")
        if silent:
            self.server.over.wait(20)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def follow(fake: Fake, *, since: float | None = None, stop: Any = lambda: False) -> Any:
    api = f"http://127.0.0.1:{fake.server_address[1]}/v1.41"
    session = requests.Session()
    session.trust_env = False
    return stream(session, api, "test", since=since, stop=stop, connect_s=2, idle_s=1)


def test_a_connection_that_died_in_silence_is_made_anew_from_the_last_event_on(fake: Fake) -> None:
    half = line(timeNano=AT + 5)
    fake.answers = [
        (200, [line() + b"\n"], True),
        (200, [half[:20], half[20:] + b"\n"], True),
    ]
    events = follow(fake, since=AT // 10**9 - 10)
    assert next(events).at == AT / 1e9
    assert next(events).exit_code == 137
    assert fake.asked[0]["since"] == ["1789999990.000000001"]
    assert fake.asked[1]["since"] == ["1790000000.123456790"], "the last one does not come again"
    filters = json.loads(fake.asked[0]["filters"][0])
    assert filters["label"] == ["berth.platform=test"]
    assert set(filters["event"]) == {"start", "die", "oom", "destroy"}


def test_a_silent_stream_that_saw_nothing_goes_on_from_when_it_was_opened(fake: Fake) -> None:
    fake.answers = [(200, [], True), (200, [line() + b"\n"], True)]
    assert next(follow(fake)).instance == "abc"
    assert "since" not in fake.asked[0]
    assert float(fake.asked[1]["since"][0]) > 1_700_000_000


def test_a_stream_stops_when_it_is_told_to_though_nothing_happens(fake: Fake) -> None:
    fake.answers = [(200, [], True)]
    assert list(follow(fake, stop=lambda: bool(fake.asked))) == []


@pytest.mark.parametrize(("status", "lines", "silent"), [(200, [], False), (500, [b"broken"], False), (0, [], True)])
def test_an_engine_that_ends_its_stream_refuses_it_or_hangs_is_told(
    fake: Fake, status: int, lines: list[bytes], silent: bool
) -> None:
    fake.answers = [(status, lines, silent)]
    with pytest.raises((EngineError, requests.exceptions.RequestException)) as caught:
        next(follow(fake))
    assert caught.type is not StopIteration
    if status == 200:
        assert caught.type is EngineUnreachable
