"""The parts of the gateway's benchmark: a fleet in ZooKeeper, backends, the proxies that are compared, and the load.

Two cores are used: a proxy that is measured has the first one to itself; all else shares the second.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import contract
from gateway.contract import Address, Policy, Route
from gateway.tests.parts import Publisher
from gateway.tests.zookeeper import free_port

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]
BODY = "x" * 1024
FAN = 100
PORTS_PER_APP = 5
START_SECONDS = 60.0
#: Transactions of ZooKeeper hold 1 MB at the most (jute.maxbuffer); so many apps stay far below.
APPS_PER_TRANSACTION = 50
IN_FLIGHT = 8
#: What a fifth of the apps asks for: every kind of rule that a request may pass.
GUARDED = Policy(
    app_rate=1_000_000,
    client_rate=100_000,
    deny=("192.0.2.0/24", "2001:db8::/32"),
    max_body_bytes=1 << 20,
    max_header_bytes=32 << 10,
    answer_timeout_ms=30_000,
    hold_ms=1000,
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """``ports``: those of the backends, which answer at every address of this machine's loopback."""

    apps: int
    ports: tuple[int, ...]
    per_app: int = PORTS_PER_APP

    def app(self, number: int) -> str:
        return f"app-{number:05d}"

    def host(self, number: int) -> str:
        return f"{self.app(number)}.bench.test"

    def instances(self, number: int, life: int = 0) -> dict[str, Address]:
        """``life``: another one has other containers at other addresses."""
        found = {}
        for one in range(self.per_app):
            serial = number * self.per_app + one
            host = f"127.{16 + (serial >> 16) + 8 * (life % 20)}.{serial >> 8 & 255}.{serial & 255}"
            found[f"{life:04x}{serial:08x}"] = Address(host, self.ports[one % len(self.ports)])
        return found

    def policy(self, number: int) -> Policy:
        return GUARDED if number % 5 == 0 else Policy()

    def fan(self) -> list[int]:
        """Apps spread over all of them, a fifth of them guarded."""
        count = min(FAN, self.apps)
        step = self.apps // count
        return [one * step + (one % 5 if step >= 5 else 0) for one in range(count)]


class Publishing(Publisher):
    """The platform's side, many apps at a time."""

    last_app = ""

    def publish_fleet(self, fleet: Fleet, numbers: Sequence[int]) -> None:
        """Of apps that are not there yet."""
        waiting: list[Any] = []
        for begin in range(0, len(numbers), APPS_PER_TRANSACTION):
            change = self.client.transaction()
            for number in numbers[begin : begin + APPS_PER_TRANSACTION]:
                app = fleet.app(number)
                change.create(contract.app_address_path(app), b"", acl=self.acl)
                change.create(contract.version_path(app, "1.0"), b"", acl=self.acl)
                for name, address in fleet.instances(number).items():
                    change.create(contract.instance_path(app, "1.0", name), str(address).encode(), acl=self.acl)
                change.create(contract.route_path(app), self._route(fleet, number), acl=self.acl)
            self.last_app = fleet.app(numbers[begin])
            waiting.append(change.commit_async())
            if len(waiting) >= IN_FLIGHT:
                check(waiting.pop(0).get(60))
        for one in waiting:
            check(one.get(60))

    def swap(self, fleet: Fleet, number: int, old: int, new: int) -> Any:
        """One transaction in which all instances of an app become those of another life. Returns what to wait for."""
        app = self.last_app = fleet.app(number)
        change = self.client.transaction()
        for name in fleet.instances(number, old):
            change.delete(contract.instance_path(app, "1.0", name))
        for name, address in fleet.instances(number, new).items():
            change.create(contract.instance_path(app, "1.0", name), str(address).encode(), acl=self.acl)
        change.set_data(contract.route_path(app), self._route(fleet, number))
        return change.commit_async()

    def zxid(self) -> int:
        """Of the last publication. What ZooKeeper did last of all may be a gateway's own acknowledgement."""
        return int(self.client.get(contract.route_path(self.last_app))[1].mzxid)

    def _route(self, fleet: Fleet, number: int) -> bytes:
        self._revision += 1
        domains = (fleet.host(number),)
        return Route(fleet.app(number), self._revision, domains, {"1.0": 100}, fleet.policy(number)).to_json()


def check(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


# Processes


def await_port(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise RuntimeError(f"nothing listens on port {port}") from None
            time.sleep(0.01)


@contextmanager
def running(command: Sequence[str], cwd: Path, core: int, port: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A process held to one core, killed at the end with its children. Waits for its port, where it has one."""
    with (cwd / "output.log").open("ab") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        if port:
            await_port(port, process)
        yield process
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {(cwd / 'output.log').read_text('utf-8', 'replace')[-800:]}") from error
    finally:
        with_children(process.pid, signal.SIGKILL)
        process.wait(10)


def with_children(group: int, number: signal.Signals) -> None:
    """Of a group that we started: its leader is its id."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def threads(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that they used so far."""
    ticks = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pids: Sequence[int]) -> float:
    """Proportional set size: what two processes share counts half for each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


# Backends

_NGINX_HEAD = """\
daemon off;
pid nginx.pid;
error_log stderr error;
worker_rlimit_nofile 16000;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
"""


def _nginx(directory: Path, body: str, *, single: bool = False) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    head = _NGINX_HEAD.format(directory=directory)
    # Under the user who runs the benchmark: the directory is nobody else's.
    head = ("master_process off;\n" if single else f"worker_processes 1;\nuser {_user()};\n") + head
    (directory / "nginx.conf").write_text(f"{head}{body}}}\n")
    return [program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit(f"{name} is missing: make bench-gateway installs it (benchmarks/apt-packages.txt)")
    return found


def backend_server(ports: Sequence[int]) -> str:
    """Answers 1 KiB from memory, and at /who the address that was connected to."""
    listens = "".join(f"    listen {port} backlog=4096;\n" for port in ports)
    return (
        f"  server {{\n{listens}"
        f'    location / {{ default_type text/plain; return 200 "{BODY}"; }}\n'
        '    location = /who { default_type text/plain; return 200 "$server_addr:$server_port"; }\n  }\n'
    )


@contextmanager
def backends(directory: Path, ports: Sequence[int]) -> Iterator[None]:
    with running(_nginx(directory, backend_server(ports)), directory, LOAD_CORE, ports[0]):
        yield


class Victim:
    """One instance as a process of its own, to be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._command = _nginx(directory, backend_server([self.port]), single=True)
        self._context: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._context = running(self._command, self._directory, LOAD_CORE, self.port)
        self._process = self._context.__enter__()

    def kill(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


# Proxies to compare with


def static_haproxy(directory: Path, fleet: Fleet, *, plain: bool = False) -> tuple[list[str], int]:
    """As somebody would write it by hand for these apps alone, who wants no request lost when an instance dies.

    ``plain``: who does not. HAProxy keeps a copy of each request that it may have to send again, which costs time.
    """
    safe = [
        "  retries 3",
        "  option redispatch 1",
        "  retry-on conn-failure empty-response",
        "  option idle-close-on-response",
    ]
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        "global",
        "  nbthread 1",
        "  maxconn 8000",
        "  tune.pool-high-fd-ratio 90",
        "  tune.pool-low-fd-ratio 80",
        "defaults",
        "  mode http",
        "  timeout connect 2s",
        "  timeout client 60s",
        "  timeout server 120s",
        "  timeout http-request 15s",
        "  timeout http-keep-alive 30s",
        "  http-reuse always",
        "  option forwardfor",
        *([] if plain else safe),
        "  default-server pool-max-conn 256 pool-purge-delay 5s check inter 10s",
        "frontend http_in",
        f"  bind 127.0.0.1:{port}",
        *([] if plain else ["  http-request disable-l7-retry if !{ method GET HEAD OPTIONS }"]),
        "  use_backend %[req.hdr(host),field(1,:),lower,map_str(hosts.map)]",
    ]
    hosts = []
    for number in fleet.fan():
        hosts.append(f"{fleet.host(number)} b{number:05d}\n")
        lines.append(f"backend b{number:05d}")
        lines.append("  balance roundrobin")
        lines.extend(f"  server {name} {address}" for name, address in fleet.instances(number).items())
    (directory / "hosts.map").write_text("".join(hosts))
    (directory / "haproxy.cfg").write_text("\n".join(lines) + "\n")
    return [program("haproxy"), "-db", "-f", "haproxy.cfg"], port


def static_nginx(directory: Path, fleet: Fleet) -> tuple[list[str], int]:
    port = free_port()
    parts = ["  server_names_hash_bucket_size 128;\n  proxy_http_version 1.1;\n"]
    for number in fleet.fan():
        servers = "".join(f"    server {address};\n" for address in fleet.instances(number).values())
        parts.append(f"  upstream b{number} {{\n{servers}    keepalive 64;\n    keepalive_requests 100000000;\n  }}\n")
        parts.append(
            f"  server {{\n    listen 127.0.0.1:{port};\n    server_name {fleet.host(number)};\n    location / {{\n"
            f'      proxy_pass http://b{number};\n      proxy_set_header Connection "";\n'
            "      proxy_set_header Host $host;\n      proxy_set_header X-Forwarded-For $remote_addr;\n    }\n  }\n"
        )
    return _nginx(directory, "".join(parts)), port


def quiet_copy(source: Path, directory: Path, bind: Address, change: Callable[[str], str] = str) -> list[str]:
    """Our configuration and maps as the agent wrote them, without the log. ``change``: to try other rules."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(source, directory, ignore=lambda at, names: [one for one in names if one.endswith(".sock")])
    lines = (directory / "haproxy.cfg").read_text().splitlines()
    kept = [line for line in lines if not line.lstrip().startswith(("log ", "log-format ", "option dontlognull"))]
    text = change("\n".join(kept) + "\n")
    (directory / "haproxy.cfg").write_text(text.replace(f"bind {bind}", f"bind 127.0.0.1:{bind.port}"))
    return [program("haproxy"), "-db", "-f", "haproxy.cfg"]
