"""Probes, against servers that behave in every way a tenant's may."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from apps.deployments.checks import Check, Kind
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.probing import Prober, Target, ask

HTTP = Check(kind=Kind.HTTP, path="/_ping")
TCP = Check(kind=Kind.TCP)


@contextmanager
def _server(answer: bytes | None, *, close: bool = True):
    """Accepts on loopback and answers each connection with these bytes; None keeps the connection open, silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            held.append(link)
            if answer is not None:
                try:
                    link.recv(4096)
                    link.sendall(answer)
                except OSError:
                    pass
                if close:
                    link.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for link in held:
            link.close()
        thread.join(5)


def _ask(port, check=HTTP):
    """In a few words what was wrong, or None."""
    wrong = _wrong(port, check)
    return None if wrong is None else wrong.reason


def _wrong(port, check):
    return ask([Target(1, "127.0.0.1", port, check)])[1]


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"302 Found", b"399 x", b"200"])
def test_200_to_399_is_well(status):
    with _server(b"HTTP/1.1 " + status + b"\r\n\r\n") as port:
        assert _ask(port) is None


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 x", b"199 x", b"400 x"])
def test_another_status_is_told(status):
    with _server(b"HTTP/1.0 " + status + b"\r\n\r\n") as port:
        assert _ask(port) == f"it answered {int(status[:3])}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 " + b"9" * 5000 + b" x\r\n",
        b"x" * 20000,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 x\r\n",
        b"HTTP/1.1\r\n",
        b"\r\n",
        b"",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_answer_is_wrong_and_harms_no_other_target(answer):
    with _server(answer) as bad, _server(b"HTTP/1.1 200 OK\r\n\r\n") as good:
        results = ask([Target(1, "127.0.0.1", bad, HTTP), Target(2, "127.0.0.1", good, HTTP)])
    assert results[1]
    assert results[2] is None


def test_refused_and_silent_say_so_without_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert _ask(port) == "Connection refused"
    assert not _wrong(port, HTTP).heard
    with _server(None) as silent:
        assert _ask(silent) == "no answer within 2 s"
        assert _wrong(silent, HTTP).heard, "its host took the connection"


def test_without_a_path_an_open_port_is_enough_and_one_that_closes_at_once_is_not():
    with _server(None) as quiet:
        assert _ask(quiet, TCP) is None
    with _server(b"220 hello\r\n", close=False) as talking:
        assert _ask(talking, TCP) is None
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        link, _ = listener.accept()
        link.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        assert _ask(listener.getsockname()[1], TCP) == "it closed the connection at once"
    finally:
        thread.join(5)
        listener.close()


def test_the_statuses_that_are_well_are_the_checks_own():
    teapot = replace(HTTP, statuses=(418, 418))
    with _server(b"HTTP/1.1 418 x\r\n\r\n") as port:
        assert _ask(port, teapot) is None
    with _server(b"HTTP/1.1 200 x\r\n\r\n") as port:
        assert _ask(port, teapot) == "it answered 200"


@pytest.mark.parametrize("close", [True, False])
def test_an_expected_text_must_stand_in_the_body(close):
    text = replace(HTTP, text="all is w\u00e9ll")
    body = "so far all is w\u00e9ll here".encode()
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    with _server(answer + body, close=close) as port:
        assert _ask(port, text) is None
    with _server(answer + b"x" * len(body), close=close) as port:
        assert _ask(port, text) == "the expected text is not in its answer"


def test_a_text_in_the_headers_or_beyond_64_kib_does_not_count():
    text = replace(HTTP, text="well")
    with _server(b"HTTP/1.0 200 OK\r\nX: well\r\n\r\nill") as port:
        assert _ask(port, text) == "the expected text is not in its answer"
    with _server(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 65536 + b"well") as port:
        assert _ask(port, text) == "the expected text is not in its answer"


def test_what_came_back_is_shown_without_control_characters_and_not_much_of_it():
    body = b"\x1b[2Jboom\n\xe2\x80\xae" + b"y" * 5000
    with _server(b"HTTP/1.1 503 Not \x07 Now\r\nSecret: 1\r\n\r\n" + body) as port:
        wrong = _wrong(port, HTTP)
    first, second, third = wrong.seen.splitlines()
    assert first == "HTTP/1.1 503 Not \N{REPLACEMENT CHARACTER} Now"
    assert second == "\N{REPLACEMENT CHARACTER}[2Jboom"
    assert third.startswith("\N{REPLACEMENT CHARACTER}yyy")
    assert len(wrong.seen) < 350
    assert "Secret" not in wrong.seen


def test_the_request_names_no_address_of_the_host():
    heard = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        link, _ = listener.accept()
        heard.append(link.recv(4096))
        link.close()

    thread = threading.Thread(target=serve)
    thread.start()
    _ask(listener.getsockname()[1])
    thread.join(5)
    listener.close()
    assert heard[0].startswith(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n")
    assert b"127.0.0.1" not in heard[0]


def test_one_that_is_slow_keeps_no_other_waiting():
    slow = replace(HTTP, timeout_s=1)
    with _server(None) as silent, _server(b"HTTP/1.1 200 OK\r\n\r\n") as good:
        prober = Prober()
        prober.ask(Target(1, "127.0.0.1", silent, slow))
        prober.ask(Target(2, "127.0.0.1", good, HTTP))
        began = time.monotonic()
        first = _first(prober)
        assert (first[0].pk, first[1]) == (2, None)
        assert time.monotonic() - began < 0.9
        second = _first(prober)
        assert (second[0].pk, second[1]) == (1, Wrong("no answer within 1 s"))
        prober.close()


def test_an_answer_that_came_while_we_were_busy_is_in_time():
    clock = [100.0]
    with _server(b"HTTP/1.1 200 OK\r\n\r\n") as good:
        prober = Prober(clock=lambda: clock[0])
        prober.ask(Target(1, "127.0.0.1", good, HTTP))
        assert prober.answers(5.0) == []  # connected, and asked
        clock[0] += 60
        assert [wrong for _, wrong in prober.answers(5.0)] == [None]
        prober.close()


def test_without_a_descriptor_nothing_is_held_against_the_target(monkeypatch):
    def none_left(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("apps.deployments.reconcile.probing.socket.socket", none_left)
        wrong = _wrong(1, HTTP)
    assert not wrong.proven


def _first(prober):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if found := prober.answers(0.2):
            (one,) = found
            return one
    raise AssertionError("no answer")
