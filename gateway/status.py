"""The agent's own small HTTP server: /healthz for supervisors, /stats for the platform, /metrics for Prometheus, / and
/status for people.
"""

from __future__ import annotations

import html
import json
import os
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from gateway import metrics
from gateway.contract import Address
from gateway.traffic import Counters

REQUEST_SECONDS = 5.0


class Source(Protocol):
    @property
    def counters(self) -> Counters: ...

    def status(self) -> dict[str, object]: ...

    def healthy(self) -> bool: ...


class StatusServer(ThreadingHTTPServer):
    """Serves in a thread of its own from `begin` to `end`. Raises OSError when the address is taken."""

    daemon_threads = True

    def __init__(self, bind: Address, source: Source) -> None:
        self.source = source
        self.address_family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
        super().__init__((bind.host, bind.port), _Handler)

    def begin(self) -> None:
        threading.Thread(target=self.serve_forever, name="status", daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer
    timeout = REQUEST_SECONDS
    server_version = "berth-gateway"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            healthy = self.server.source.healthy()
            self._answer(200 if healthy else 503, b"ok\n" if healthy else b"not serving\n", "text/plain")
        elif self.path == "/status":
            body = json.dumps(self.server.source.status(), sort_keys=True).encode()
            self._answer(200, body + b"\n", "application/json")
        elif self.path == "/metrics":
            self._metrics()
        elif self.path == "/":
            self._answer(200, page(self.server.source.status()), "text/html; charset=utf-8")
        elif (url := urlsplit(self.path)).path == "/stats":
            self._stats(parse_qs(url.query, keep_blank_values=True))
        else:
            self._answer(404, b"not found\n", "text/plain")

    def _stats(self, asked: dict[str, list[str]]) -> None:
        counters = self.server.source.counters
        if "app" not in asked:
            self._answer(200, json.dumps(counters.totals(), sort_keys=True).encode() + b"\n", "application/json")
        elif (traffic := counters.of(asked["app"][-1], windows=asked.get("windows") == ["1"])) is not None:
            self._answer(200, traffic.to_json() + b"\n", "application/json")
        else:
            self._answer(404, b"no such app\n", "text/plain")

    def _metrics(self) -> None:
        status = self.server.source.status()
        pids = {"agent": os.getpid(), "haproxy": status.get("haproxy_worker_pid")}
        memory = {name: size for name, pid in pids.items() if isinstance(pid, int) and (size := resident_bytes(pid))}
        self._answer(200, metrics.exposition(status, self.server.source.counters.totals(), memory), metrics.KIND)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Supervisors ask every few seconds; that is not worth a line."""


def resident_bytes(pid: int) -> int:
    """0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid:d}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def page(status: Mapping[str, object]) -> bytes:
    """For people: the picture of /status as a table. Works without styles and scripts."""
    rows: list[str] = []
    for key, value in status.items():
        told = {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
        rows.extend(f"<tr><th>{html.escape(name)}<td>{html.escape(str(one))}\n" for name, one in told.items())
    name = html.escape(str(status.get("gateway", "")))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Gateway {name}</title><h1>Gateway {name}</h1>\n"
        f"<p><a href=/healthz>healthz</a> <a href=/status>status</a> <a href=/stats>stats</a> <a href=/metrics>metrics"
        f"</a></p>\n<table>\n{''.join(rows)}</table></html>\n"
    ).encode()
