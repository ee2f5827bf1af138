"""What is not plain HTTP/1: websockets, HTTP/2, gRPC and TCP pass, by the clients that people use."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from gateway.contract import Address, Policy
from gateway.tests.parts import App, Gateway, Publisher, until
from gateway.tests.zookeeper import ZooKeeper, free_port

pytestmark = pytest.mark.real
CONTAINER = "0123456789ab"


@contextlib.contextmanager
def _websocket() -> Iterator[Address]:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Address("127.0.0.1", server.socket.getsockname()[1])
        server.shutdown()


@contextlib.contextmanager
def _grpc() -> Iterator[Address]:
    def raw(data: bytes) -> bytes:
        return data

    def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "said in a trailer")

    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request, raw, raw),
        "Count": grpc.unary_stream_rpc_method_handler(count, raw, raw),
        "Fail": grpc.unary_unary_rpc_method_handler(fail, raw, raw),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Address("127.0.0.1", port)
    server.stop(0).wait(5)


@contextlib.contextmanager
def _echo(greeting: bytes) -> Iterator[Address]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(greeting)
            while data := self.request.recv(4096):
                self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Address("127.0.0.1", server.server_address[1])
        server.shutdown()


def test_a_websocket_passes_and_lives_through_a_reload(
    gateway: Gateway, publisher: Publisher, make_app: Callable[..., App]
) -> None:
    other = make_app("other")
    with _websocket() as address:
        publisher.await_served(publisher.publish("chat", {"1.0": {CONTAINER: address}}))
        there = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        with connect("ws://chat.test/", sock=there) as client:
            client.send("before")
            assert client.recv(timeout=10) == "before"
            reloads = gateway.status()["haproxy_reloads"]
            zxid = 0
            for number in range(20):
                zxid = publisher.publish(f"app{number}", {"1.0": {other.container: other.address}})
            publisher.await_served(zxid)
            assert gateway.status()["haproxy_reloads"] > reloads
            client.send(b"after")
            assert client.recv(timeout=10) == b"after"


def test_grpc_passes_with_streams_and_trailers(gateway: Gateway, publisher: Publisher) -> None:
    with _grpc() as address:
        publisher.await_served(publisher.publish("rpc", {"1.0": {CONTAINER: address}}, protocol="h2"))
        for _ in range(2):
            options = [("grpc.default_authority", "rpc.test")]
            with grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options) as channel:
                assert channel.unary_unary("/t.T/Echo")(b"x" * 100_000, timeout=10) == b"x" * 100_000
                assert list(channel.unary_stream("/t.T/Count")(b"50", timeout=10)) == [b"%d" % n for n in range(50)]
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary("/t.T/Fail")(b"", timeout=10)
                assert (caught.value.code(), caught.value.details()) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "said in a trailer",
                )
            # The second time from static lines, which a start writes.
            gateway.end()
            gateway.start()


def test_curl_speaks_http2_to_an_app_of_http1(
    gateway: Gateway, publisher: Publisher, make_app: Callable[..., App]
) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": {one.container: one.address}}))
    for flag, spoken in (("--http2-prior-knowledge", "2"), ("--http1.1", "1.1"), ("--http1.0", "1.1")):
        done = subprocess.run(
            [
                *("curl", "-sS", flag, "-H", "Host: shop.test", "-w", " %{http_version} %{http_code}"),
                f"http://127.0.0.1:{gateway.port}/",
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert done.stdout.split()[0] == "one"
        assert done.stdout.split()[2] == "200", done.stdout
        assert done.stdout.split()[1] in (spoken, "1"), done.stdout


def _two_ports() -> int:
    """The first of two, both free, and below those that systems give away of themselves."""
    for first in range(21_000, 30_000, 2):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in (first, first + 1):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no two free ports")


def _said(port: int, data: bytes = b"") -> bytes:
    """What an echo greets and answers with; nothing where the connection is refused or ended."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            heard = connection.recv(100)
            if heard and data:
                connection.sendall(data)
                heard += connection.recv(100)
            return heard
    except ConnectionError:
        return b""


def test_a_port_leads_to_an_app_of_tcp_and_to_it_alone(
    publisher: Publisher, shared_zookeeper: ZooKeeper, make_gateway: Callable[..., Gateway]
) -> None:
    first = _two_ports()
    gateway = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_TCP_PORTS=f"{first}-{first + 1}")
    with _echo(b"one ") as one, _echo(b"two ") as two:

        def publish(app: str, address: Address, *ports: int, **policy: tuple[str, ...]) -> None:
            zxid = publisher.publish(
                app, {"1.0": {CONTAINER: address}}, protocol="tcp", ports=ports, policy=Policy(**policy), domains=()
            )
            publisher.await_served(zxid)

        publish("one", one, first)
        assert _said(first, b"hello") == b"one hello"
        assert _said(first + 1) == b""
        publish("two", two, first + 1)
        assert (_said(first), _said(first + 1)) == (b"one ", b"two ")
        publish("one", one, first, deny=("127.0.0.1",))
        assert (_said(first), _said(first + 1)) == (b"", b"two ")
        publish("one", one, first, allow=("127.0.0.0/30",))
        assert _said(first) == b"one "
        # Whoever has a port keeps it.
        publish("two", two, first + 1, first)
        assert _said(first) == b"one "
        publisher.await_served(publisher.remove("one"))
        until(lambda: _said(first) == b"two ", "the next has it")
        gateway.end()
        gateway.start()
        assert _said(first + 1) == b"two "


def test_a_connection_of_tcp_goes_on_over_a_reload(
    publisher: Publisher,
    shared_zookeeper: ZooKeeper,
    make_gateway: Callable[..., Gateway],
    make_app: Callable[..., App],
) -> None:
    port = free_port()
    gateway = make_gateway(shared_zookeeper.hosts, BERTH_GATEWAY_TCP_PORTS=f"{port}-{port}")
    other = make_app("other")
    with _echo(b"") as address:
        zxid = publisher.publish("db", {"1.0": {CONTAINER: address}}, protocol="tcp", ports=(port,), domains=())
        publisher.await_served(zxid)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"before")
            assert connection.recv(100) == b"before"
            for number in range(20):
                zxid = publisher.publish(f"app{number}", {"1.0": {other.container: other.address}})
            publisher.await_served(zxid)
            assert gateway.status()["haproxy_reloads"] > 0
            connection.sendall(b"after")
            assert connection.recv(100) == b"after"
