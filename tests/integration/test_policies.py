"""From a rule in the database to what a client of a real gateway meets."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from apps.deployments.discovery import Publisher
from apps.deployments.models import App, Instance
from apps.deployments.reconcile.routes import publish
from apps.deployments.services.apps import app_create
from apps.deployments.services.gateway_ports import port_claim, port_release
from apps.deployments.services.policies import person_remove, person_set, policy_set
from apps.deployments.tests.steps import deploy
from stack.environment import Environment
from stack.journey import wait_for
from stack.parts.python import gateway
from stack.parts.zookeeper import zookeeper
from stack.runner import Stack

pytestmark = pytest.mark.real


class Answers(socketserver.StreamRequestHandler):
    """Speaks both: HTTP to whoever begins with a request, and else what it was sent."""

    def handle(self) -> None:
        line = self.rfile.readline()
        if line.startswith(b"GET "):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        elif line:
            self.wfile.write(b"echo " + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    found = Environment.open(tmp_path_factory.mktemp("policies"))
    with Stack(found.directory, [zookeeper(found), gateway(found)]):
        yield found


@pytest.fixture
def publisher(env: Environment, loop: Any, settings: Any) -> Iterator[Publisher]:
    variables = env.variables()
    settings.GATEWAY_TCP_PORTS = env.tcp_ports
    made = Publisher(
        hosts=variables["BERTH_ZOOKEEPER"],
        credential=variables["BERTH_ZOOKEEPER_PUBLISHER"],
        gateway_credential=variables["BERTH_ZOOKEEPER_GATEWAY"],
    )
    made.epoch_begin()
    loop.clients._discovery = made
    yield made
    made.close()


@contextlib.contextmanager
def serving(app: App, world: Any, loop: Any) -> Iterator[None]:
    """One instance of it is ready, and something listens at its address."""
    world.push(app)
    deploy(app, world, instances=1)
    instance = Instance.objects.get(app=app)
    with Server((instance.host.address, instance.port), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        loop.settle()
        assert publish(app.pk, app.slug, loop.clients)
        yield
        server.shutdown()


def get(env: Environment, host: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", env.ports["gateway"], timeout=5)
    connection.request("GET", "/", headers={"Host": host, **(headers or {})})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def told(env: Environment, port: int, line: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(line)
            return client.makefile("rb").readline()
    except OSError:
        return b""


def test_rules_are_in_force_at_the_gateway(world, loop, env, publisher):
    world.host()
    app = world.app()
    with serving(app, world, loop):

        def becomes(expected: int, **headers: str) -> None:
            publish(app.pk, app.slug, loop.clients)
            wait_for(f"{expected} of the gateway", lambda: get(env, "shop.localhost", headers)[0] == expected, 15)

        becomes(200)
        policy_set(app=app, changes={"maintenance": True}, by=world.bob)
        becomes(503)
        policy_set(app=app, changes={"maintenance": False}, by=world.bob)
        becomes(200)
        person_set(app=app, name="visitor", password="let me in, please", by=world.alice)
        becomes(401)
        right = "Basic " + base64.b64encode(b"visitor:let me in, please").decode()
        wrong = "Basic " + base64.b64encode(b"visitor:let me in").decode()
        becomes(200, Authorization=right)
        becomes(401, Authorization=wrong)
        person_remove(app=app, name="visitor", by=world.alice)
        becomes(200)
        policy_set(app=app, changes={"deny": ["127.0.0.0/8"]}, by=world.alice)
        becomes(403)
        policy_set(app=app, changes={"deny": [], "allow": ["127.0.0.1"]}, by=world.alice)
        becomes(200)
        policy_set(app=app, changes={"allow": ["10.0.0.0/8", "2001:db8::/32"]}, by=world.alice)
        becomes(403)


def test_a_port_leads_to_an_app_of_tcp_until_it_is_given_back(world, loop, env, publisher):
    world.host()
    app = app_create(tenant=world.acme, slug="db", by=world.alice, protocol="tcp")
    port = port_claim(app=app, by=world.bob).port
    assert told(env, port, b"hello\n") == b""
    with serving(app, world, loop):
        wait_for("the app's answer", lambda: told(env, port, b"hello\n") == b"echo hello\n", 15)
        assert get(env, "db.localhost")[0] == 404, "it is no app of HTTP"
        others = set(range(env.tcp_ports[0], env.tcp_ports[1] + 1)) - {port}
        assert {told(env, one, b"hello\n") for one in others} == {b""}
        port_release(app=app, port=port, by=world.bob)
        publish(app.pk, app.slug, loop.clients)
        wait_for("nothing at the port", lambda: told(env, port, b"hello\n") == b"", 15)
