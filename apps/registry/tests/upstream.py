"""Another registry, on loopback, that really answers: what a pull needs of the protocol, and lies at will."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from apps.registry.tests.registry import Shop

TOKEN = "let-me-in"


class Upstream(ThreadingHTTPServer):
    """``signs_in``: "" (anybody), "basic" or "bearer". ``lies``: path -> what to answer there instead."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.held = Shop()
        self.signs_in = ""
        self.users = {"robot": "s3cret"}
        self.realm = f"http://{self.place}/token"
        self.lies: dict[str, Callable[[_Handler], None]] = {}
        self.seen: list[tuple[str, str]] = []
        self.scopes: list[str] = []

    @property
    def place(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_port}"

    def start(self) -> Upstream:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def asked_for(self, path: str) -> int:
        return sum(one == path for one, _ in self.seen)


class _Handler(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        given = self.headers.get("Authorization", "")
        self.server.seen.append((place.path, given))
        with contextlib.suppress(OSError):
            if lie := self.server.lies.get(place.path):
                lie(self)
            elif place.path == "/token":
                self._token(parse_qs(place.query), given)
            elif not self._let_in(given):
                self._challenge()
            elif place.path == "/v2/":
                self.send(200, b"{}")
            else:
                self._content(place.path)

    def _content(self, path: str) -> None:
        _, _, rest = path.partition("/v2/team/app/")
        what, _, name = rest.partition("/")
        held = self.server.held
        if what == "blobs" and name in held.blobs:
            self.send(200, held.blobs[name])
        elif what == "manifests" and (digest := held.tags.get(name, name)) in held.manifests:
            body, media_type = held.manifests[digest]
            self.send(200, body, {"Content-Type": media_type})
        else:
            self.send(404)

    def _known(self, given: str) -> bool:
        with contextlib.suppress(ValueError):
            name, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
            return self.server.users.get(name) == password
        return False

    def _let_in(self, given: str) -> bool:
        kinds = {"": True, "basic": self._known(given), "bearer": given == f"Bearer {TOKEN}"}
        return kinds[self.server.signs_in]

    def _challenge(self) -> None:
        asks = 'Basic realm="there"'
        if self.server.signs_in == "bearer":
            asks = f'Bearer realm="{self.server.realm}",service="there",scope="repository:other:pull"'
        self.send(401, headers={"WWW-Authenticate": asks})

    def _token(self, query: dict[str, list[str]], given: str) -> None:
        self.server.scopes += query.get("scope", [])
        if not self._known(given):
            self.send(401)
        else:
            self.send(200, json.dumps({"token": TOKEN}).encode())

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def leads_to(place: str) -> Callable[[Any], None]:
    return lambda handler: handler.send(307, headers={"Location": place})


def says(body: bytes, **headers: str) -> Callable[[Any], None]:
    return lambda handler: handler.send(200, body, headers)


def never_ends(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)
