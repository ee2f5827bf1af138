"""The other ends of a real gateway in tests: tiny apps, constant clients, a publisher, and the agent itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.security import make_digest_acl

from gateway import cli, contract, processes
from gateway.tests.zookeeper import free_port

GATEWAY = "gateway:gateway-password"
PUBLISHER = "publisher:publisher-password"


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Waits for a truthy value, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


class App:
    """One instance: answers with its name, and counts. ``status`` and ``gate`` are set by tests."""

    def __init__(self, name: str, host: str = "127.0.0.1") -> None:
        self.name = name
        self.requests: list[dict[str, str]] = []
        self.status = 200
        self.gate: threading.Event | None = None
        self.entered = threading.Event()
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for a delayed ACK

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.do_GET()

            def do_GET(self) -> None:
                app.requests.append(dict(self.headers.items()))
                app.entered.set()
                if self.path == "/slow" and app.gate is not None:
                    app.gate.wait(30)
                body = app.name.encode()
                self.send_response(app.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *arguments: object) -> None: ...

        self._server = Server((host, 0), Handler)
        self.address = contract.Address(host, self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def container(self) -> str:
        return f"{abs(hash(self.name)) % 16**12:012x}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Client:
    """One browser: a keep-alive connection, opened again when the other end closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def get(self, host: str, path: str = "/", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        status, body, _ = self.fetch(host, path, headers)
        return status, body

    def fetch(
        self, host: str, path: str = "/", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, dict[str, str]]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            self._connection.request("GET", path, headers={"Host": host, **(headers or {})})
            response = self._connection.getresponse()
            body = response.read().decode()
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        return response.status, body, {key.lower(): value for key, value in response.getheaders()}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Load:
    """Constant requests from a few clients, half of them with keep-alive; nothing may fail."""

    def __init__(self, port: int, host: str, clients: int = 6) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(port, host, number % 2 == 0), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: sum(self.answers.values()) > 50 or self.failures, "load runs")
        return self

    def __exit__(self, *arguments: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def after(self, more: int) -> None:
        """Waits until that many more requests were answered."""
        before = sum(self.answers.values())
        until(lambda: self.failures or sum(self.answers.values()) >= before + more, "more requests")

    def _run(self, port: int, host: str, keep: bool) -> None:
        client = Client(port)
        while not self._stop.is_set():
            try:
                status, body = client.get(host)
                answer, failure = body, "" if status == 200 else f"{status} {body[:60]}"
            except Exception as error:
                answer, failure = "", repr(error)
            with self._lock:
                if failure:
                    self.failures.append(failure)
                else:
                    self.answers[answer] += 1
            if not keep:
                client.close()
            time.sleep(0.001)
        client.close()


class Publisher:
    """The platform's side of the contract: one transaction for each publication, the route last."""

    def __init__(self, hosts: str) -> None:
        self.client = KazooClient(hosts, auth_data=[("digest", PUBLISHER)], timeout=10)
        self.client.start(20)
        user, password = PUBLISHER.split(":")
        reader, secret = GATEWAY.split(":")
        self.acl = [make_digest_acl(user, password, all=True), make_digest_acl(reader, secret, read=True)]
        self.member_acl = [
            self.acl[0],
            make_digest_acl(reader, secret, read=True, create=True, delete=True),
        ]
        self._revision = 0

    def build(self, epoch: str = "epoch-1") -> None:
        for path in (contract.ROOT, contract.SERVICE_PATH, contract.ADDRESS_PATH, contract.ROUTE_PATH):
            self.client.ensure_path(path, acl=self.acl)
        self.client.ensure_path(contract.GATEWAY_PATH, acl=self.member_acl)
        if self.client.exists(contract.EPOCH_PATH):
            self.client.set(contract.EPOCH_PATH, epoch.encode())
        else:
            self.client.create(contract.EPOCH_PATH, epoch.encode(), acl=self.acl)

    def publish(
        self,
        app: str,
        versions: Mapping[str, Mapping[str, contract.Address]],
        weights: Mapping[str, int] | None = None,
        domains: tuple[str, ...] | None = None,
        groups: tuple[contract.Group, ...] = (),
        policy: contract.Policy | None = None,
        **more: Any,
    ) -> int:
        """Returns the transaction's zxid. ``more``: of contract.Route."""
        self._revision += 1
        shares = weights if weights is not None else dict.fromkeys(versions, 100)
        names = (f"{app}.test",) if domains is None else domains
        route = contract.Route(app, self._revision, names, shares, policy or contract.Policy(), groups, **more)
        change = self.client.transaction()
        base = contract.app_address_path(app)
        have = {tag: set(self._children(f"{base}/{tag}")) for tag in self._children(base)}
        if not have and not self.client.exists(base):
            change.create(base, b"", acl=self.acl)
        for tag in versions.keys() - have.keys():
            change.create(contract.version_path(app, tag), b"", acl=self.acl)
        for tag, names in have.items():
            for name in names - versions.get(tag, {}).keys():
                change.delete(f"{base}/{tag}/{name}")
            if tag not in versions:
                change.delete(f"{base}/{tag}")
        for tag, instances in versions.items():
            for name in instances.keys() - have.get(tag, set()):
                change.create(contract.instance_path(app, tag, name), str(instances[name]).encode(), acl=self.acl)
        if self.client.exists(contract.route_path(app)):
            change.set_data(contract.route_path(app), route.to_json())
        else:
            change.create(contract.route_path(app), route.to_json(), acl=self.acl)
        for result in change.commit():
            if isinstance(result, Exception):
                raise result
        return int(self.client.get(contract.route_path(app))[1].mzxid)

    def remove(self, app: str) -> int:
        change = self.client.transaction()
        base = contract.app_address_path(app)
        for tag in self._children(base):
            for name in self._children(f"{base}/{tag}"):
                change.delete(f"{base}/{tag}/{name}")
            change.delete(f"{base}/{tag}")
        change.delete(base)
        change.delete(contract.route_path(app))
        for result in change.commit():
            if isinstance(result, Exception):
                raise result
        return int(self.client.last_zxid)

    def state(self, gateway: str = "gw1") -> contract.GatewayState | None:
        try:
            return contract.GatewayState.from_json(self.client.get(contract.gateway_path(gateway))[0])
        except NoNodeError:
            return None

    def await_served(self, zxid: int, seconds: float = 20.0) -> None:
        until(lambda: (state := self.state()) and state.served >= zxid, f"zxid {zxid} is served", seconds)

    def wipe(self) -> None:
        if self.client.exists(contract.ROOT):
            self.client.delete(contract.ROOT, recursive=True)

    def close(self) -> None:
        self.client.stop()
        self.client.close()

    def _children(self, path: str) -> list[str]:
        try:
            return list(self.client.get_children(path))
        except NoNodeError:
            return []


class Gateway:
    """``python -m gateway`` as a process of its own."""

    def __init__(self, directory: Path, zookeeper: str, **extra: str) -> None:
        self.directory = directory
        self.port, self.status_port, self.log_port = free_port(), free_port(), free_port()
        self._environment = {
            "BERTH_GATEWAY_ID": "gw1",
            "BERTH_GATEWAY_DIR": str(directory),
            "BERTH_ZOOKEEPER": zookeeper,
            "BERTH_ZOOKEEPER_GATEWAY": GATEWAY,
            "BERTH_GATEWAY_HTTP_BIND": f"127.0.0.1:{self.port}",
            "BERTH_GATEWAY_STATUS_BIND": f"127.0.0.1:{self.status_port}",
            "BERTH_GATEWAY_LOG_BIND": f"127.0.0.1:{self.log_port}",
            "BERTH_GATEWAY_SESSION_SECONDS": "2",
            "BERTH_GATEWAY_STOP_SECONDS": "0.2",
            "BERTH_GATEWAY_MAX_CONNECTIONS": "2000",
            **extra,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway"],
                cwd=Path(__file__).parents[2],
                env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self.healthy, "the gateway is healthy")

    @property
    def pid(self) -> int:
        """The agent's."""
        assert self._process is not None
        return self._process.pid

    def set(self, name: str, value: str) -> None:
        """For the next start."""
        self._environment[name] = value

    def signal(self, number: signal.Signals) -> int:
        """Returns the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(20)
        self._process = None
        return status

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.ask("/status")[1]))
        except (OSError, ValueError, http.client.HTTPException):
            return {}

    def ask(self, path: str) -> tuple[int, bytes]:
        """A page of the agent's own server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def traffic(self, app: str) -> contract.AppTraffic:
        status, body = self.ask(f"/stats?app={app}")
        assert status == 200
        return contract.AppTraffic.from_json(body)

    def healthy(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=5)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def get(self, host: str, path: str = "/") -> tuple[int, str]:
        client = Client(self.port)
        try:
            return client.get(host, path)
        finally:
            client.close()

    def serves(self, host: str, status: int = 200) -> bool:
        try:
            return self.get(host)[0] == status
        except (OSError, http.client.HTTPException):
            return False

    def connections(self) -> int:
        """Of clients, right now."""
        directory = cli.Directory(self.directory)
        talk = cli.worker(directory, "admin.sock")
        try:
            (listing,) = talk.run(["show stat http_in 1 -1"])
        finally:
            talk.close()
            directory.close()
        names, values = (line.lstrip("# ").split(",") for line in listing.splitlines()[:2])
        return int(dict(zip(names, values, strict=False))["scur"])

    def haproxies(self) -> list[int]:
        return processes.ours(self.directory / "haproxy.cfg")

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def end(self) -> None:
        """Whatever the test did, nothing of this gateway is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        config = self.directory / "haproxy.cfg"
        for pid in processes.ours(config):
            processes.send(pid, config, signal.SIGKILL)
        assert not processes.await_end(processes.ours(config), config, 5)
