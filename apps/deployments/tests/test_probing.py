"""Probes, against servers that behave in every way a tenant's may."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest

from apps.deployments.reconcile.probing import Target, ask, probe


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


def _ask(port, path="/_ping"):
    return asyncio.run(probe(Target(1, "127.0.0.1", port, path)))


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
        results = ask([Target(1, "127.0.0.1", bad, "/_ping"), Target(2, "127.0.0.1", good, "/_ping")])
    assert results[1]
    assert results[2] is None


def test_refused_and_silent_say_so_without_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert _ask(port) == "Connection refused"
    with _server(None) as silent:
        assert _ask(silent) == "no answer within 2 s"


def test_without_a_path_an_open_port_is_enough_and_one_that_closes_at_once_is_not():
    with _server(None) as quiet:
        assert _ask(quiet, "") is None
    with _server(b"220 hello\r\n", close=False) as talking:
        assert asyncio.run(probe(Target(1, "127.0.0.1", talking, ""))) in {None}
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        link, _ = listener.accept()
        link.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        assert _ask(listener.getsockname()[1], "") == "it closed the connection at once"
    finally:
        thread.join(5)
        listener.close()
