"""The agent's own small HTTP server: /healthz for supervisors, /status for people, /stats for the platform."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

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
        elif (url := urlsplit(self.path)).path == "/stats":
            self._stats(parse_qs(url.query, keep_blank_values=True))
        else:
            self._answer(404, b"not found\n", "text/plain")

    def _stats(self, asked: dict[str, list[str]]) -> None:
        counters = self.server.source.counters
        if "app" not in asked:
            self._answer(200, json.dumps(counters.totals(), sort_keys=True).encode() + b"\n", "application/json")
        elif (traffic := counters.of(asked["app"][-1])) is not None:
            self._answer(200, traffic.to_json() + b"\n", "application/json")
        else:
            self._answer(404, b"no such app\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Supervisors ask every few seconds; that is not worth a line."""
