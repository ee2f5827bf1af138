"""The guarded client: where it goes, where it does not, and that it comes to an end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from apps.core.guarded import (
    AddressRefused,
    AddressUnreachable,
    AnswerTooLarge,
    AnswerTooSlow,
    GuardSettings,
    body_of,
    guarded,
    permitted,
)

REFUSED = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    # IPv4 in IPv6's clothes.
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:1::1", "64:ff9b:1::1"),
)


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_the_internet_is_refused(address: str) -> None:
    assert not permitted(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_the_internet_is_not(address: str) -> None:
    assert permitted(address)


def test_an_admin_allows_and_denies_networks(settings: Any) -> None:
    settings.GUARD_ALLOW = ["10.20.0.0/16"]
    settings.GUARD_DENY = ["1.1.1.0/24", "10.20.9.0/24"]
    assert permitted("10.20.0.1")
    assert permitted("::ffff:10.20.0.1")
    assert not permitted("10.21.0.1")
    assert not permitted("10.20.9.1"), "what is denied is so, whatever else is allowed"
    assert not permitted("1.1.1.1")
    settings.GUARD_ALLOW = ["10.20.0.1/16"]
    with pytest.raises(GuardSettings):
        permitted("1.1.1.1")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            self.server.answers[self.path](self)  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


def says(body: bytes) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def leads_to(place: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(307)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def never_ends(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def drips(handler: Handler) -> None:
    """A header that never ends: each byte comes in time."""
    wait = threading.Event()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not wait.wait(0.05):
        handler.wfile.write(b"x")


@pytest.fixture
def server(settings: Any) -> Iterator[Any]:
    settings.GUARD_ALLOW, settings.GUARD_HTTP = ["127.0.0.1/32"], True
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.answers, made.seen = {"/": says(b"well")}, []  # type: ignore[attr-defined]
    made.url = f"http://127.0.0.1:{made.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def fetch(url: str, *, most: int = 1000, total_s: float = 5, **values: Any) -> bytes:
    with guarded(total_s=total_s, **values) as client, client.stream("GET", url, auth=("me", "secret")) as reply:
        return body_of(reply, most)


def test_it_reads_what_it_may(server: Any) -> None:
    assert fetch(server.url) == b"well"


def test_what_it_may_not_is_never_connected_to(server: Any, settings: Any) -> None:
    settings.GUARD_ALLOW = []
    with pytest.raises(AddressRefused) as refused:
        fetch(server.url)
    assert not server.seen
    assert "127" not in refused.value.detail


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://0/",
        "http://2130706434/",
    ],
)
def test_a_redirect_is_looked_at_like_the_first(server: Any, place: str) -> None:
    server.answers["/"] = leads_to(place)
    with pytest.raises((AddressRefused, AddressUnreachable)):
        fetch(server.url)


def test_a_redirect_elsewhere_takes_no_password_along(server: Any, settings: Any) -> None:
    settings.GUARD_ALLOW = ["127.0.0.0/8"]
    server.answers |= {"/": leads_to(f"http://localhost:{server.server_port}/next"), "/next": says(b"next")}
    assert fetch(server.url, resolver=lambda host, port: ["127.0.0.1"]) == b"next"
    assert [given is None for _, given in server.seen] == [False, True]


def test_redirects_come_to_an_end(server: Any) -> None:
    server.answers["/"] = leads_to("/")
    with pytest.raises(AddressUnreachable):
        fetch(server.url)
    assert len(server.seen) == 6


def test_other_protocols_are_refused(server: Any, settings: Any) -> None:
    for place in ("ftp://127.0.0.1/", "file:///etc/passwd", f"http://me:you@127.0.0.1:{server.server_port}/"):
        server.answers["/"] = leads_to(place)
        with pytest.raises((AddressRefused, AddressUnreachable)):
            fetch(server.url)
    settings.GUARD_HTTP = False
    with pytest.raises(AddressRefused, match="https"):
        fetch(server.url)


def test_a_name_that_changes_between_look_and_connection_gains_nothing(server: Any, settings: Any) -> None:
    """The connection goes to what was looked at: a second look-up would lead to the server here."""
    settings.GUARD_ALLOW = []
    asked: list[str] = []

    def changing(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) > 1 else ["10.9.9.9"]

    with pytest.raises(AddressRefused):
        fetch(f"http://rebound.example:{server.server_port}/", resolver=changing)
    assert asked == ["rebound.example"]
    assert not server.seen


def test_one_bad_address_among_good_ones_is_enough(server: Any) -> None:
    with pytest.raises(AddressRefused):
        fetch("http://both.example/", resolver=lambda host, port: ["127.0.0.1", "10.0.0.1"])


def test_the_name_is_what_the_server_is_asked_for(server: Any) -> None:
    assert fetch(f"http://good.example:{server.server_port}/", resolver=lambda h, p: ["127.0.0.1"]) == b"well"


def test_an_endless_body_is_left(server: Any) -> None:
    server.answers["/"] = never_ends
    with pytest.raises(AnswerTooLarge):
        fetch(server.url, most=1 << 20)


def test_a_body_that_announces_too_much_is_not_read(server: Any) -> None:
    server.answers["/"] = says(b"x" * 2000)
    with pytest.raises(AnswerTooLarge):
        fetch(server.url)


def test_a_packed_body_is_not_unpacked(server: Any) -> None:
    def packed(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    server.answers["/"] = packed
    with pytest.raises(AddressUnreachable, match="packed"):
        fetch(server.url)


def test_who_drips_is_cut_off(server: Any) -> None:
    server.answers["/"] = drips
    with pytest.raises(AnswerTooSlow):
        fetch(server.url, total_s=0.5)


def test_nobody_there_and_no_name_are_told_alike(settings: Any) -> None:
    settings.GUARD_ALLOW, settings.GUARD_HTTP = ["127.0.0.1/32"], True
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    for url, values in ((f"http://127.0.0.1:{port}/", {}), ("http://nobody.example/", {"resolver": unknown})):
        with pytest.raises(AddressUnreachable, match="no usable answer"):
            fetch(url, **values)


def test_the_environment_s_proxies_are_not_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert fetch(server.url) == b"well"
