"""A certificate authority for tests that speaks ACME (RFC 8555): it verifies what is signed, and really looks."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from acme import jws
from cryptography import x509
from josepy.b64 import b64decode
from josepy.jwa import RS256  # noqa: F401 - registers the algorithm
from josepy.jwk import JWK

from gateway.tests.pki import Authority

PROBLEM = "urn:ietf:params:acme:error:"


class Problem(Exception):
    def __init__(self, kind: str, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.body = {"type": f"{PROBLEM}{kind}", "detail": detail, "status": status}
        self.status = status


class AcmeDouble(ThreadingHTTPServer):
    """Looks for answers at ``gateway`` (host, port), whatever the name: a resolver that leads all names there.

    ``problems``: what the next requests are refused with. ``lookups``: what was found under each name.
    """

    daemon_threads = True

    def __init__(self, authority: Authority, gateway: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.authority, self.gateway = authority, gateway
        self.base = f"http://127.0.0.1:{self.server_address[1]}"
        self.nonces: set[str] = set()
        self.accounts: dict[str, JWK] = {}
        self.orders: dict[str, dict[str, Any]] = {}
        self.problems: list[Problem] = []
        self.lookups: list[tuple[str, int, str]] = []
        self.agreed: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def directory(self) -> str:
        return f"{self.base}/directory"

    def end(self) -> None:
        self.shutdown()
        self.server_close()

    # What the requests do; each returns status, body, headers.

    def new_account(self, key: JWK, payload: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        there = next((uri for uri, held in self.accounts.items() if held == key), None)
        if there is not None:
            return 200, {"status": "valid"}, {"Location": there}
        if not payload.get("termsOfServiceAgreed"):
            raise Problem("userActionRequired", "agree to the terms", 403)
        uri = f"{self.base}/account/{len(self.accounts) + 1}"
        self.accounts[uri] = key
        self.agreed.append(payload)
        return 201, {"status": "valid", "contact": payload.get("contact", [])}, {"Location": uri}

    def new_order(self, payload: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        number = str(len(self.orders) + 1)
        name = payload["identifiers"][0]["value"]
        self.orders[number] = {"name": name, "token": secrets.token_urlsafe(32), "proof": "pending", "error": None}
        return 201, self.order(number), {"Location": f"{self.base}/order/{number}"}

    def order(self, number: str) -> dict[str, Any]:
        held = self.orders[number]
        status = {"pending": "pending", "invalid": "invalid"}.get(held["proof"], "ready")
        body = {
            "status": "valid" if "certificate" in held else status,
            "identifiers": [{"type": "dns", "value": held["name"]}],
            "authorizations": [f"{self.base}/authz/{number}"],
            "finalize": f"{self.base}/finalize/{number}",
        }
        if "certificate" in held:
            body["certificate"] = f"{self.base}/cert/{number}"
        return body

    def authorization(self, number: str) -> dict[str, Any]:
        held = self.orders[number]
        return {
            "status": held["proof"],
            "identifier": {"type": "dns", "value": held["name"]},
            "challenges": [
                {"type": "dns-01", "url": f"{self.base}/none", "token": held["token"], "status": "pending"},
                self.challenge(number),
            ],
        }

    def challenge(self, number: str) -> dict[str, Any]:
        held = self.orders[number]
        url = f"{self.base}/chall/{number}"
        body = {"type": "http-01", "url": url, "token": held["token"], "status": held["proof"]}
        return {**body, "error": held["error"]} if held["error"] else body

    def look(self, number: str, key: JWK) -> dict[str, Any]:
        """RFC 8555, 8.3: the key authorization, at the name itself, on port 80."""
        held = self.orders[number]
        wanted = f"{held['token']}.{_thumbprint(key)}"
        connection = http.client.HTTPConnection(*self.gateway, timeout=10)
        try:
            path = f"/.well-known/acme-challenge/{held['token']}"
            connection.request("GET", path, headers={"Host": held["name"]})
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode("utf-8", "replace").strip()
        finally:
            connection.close()
        self.lookups.append((held["name"], status, text))
        if status == 200 and text == wanted:
            held["proof"] = "valid"
        else:
            held["proof"] = "invalid"
            held["error"] = {"type": f"{PROBLEM}unauthorized", "detail": f"found {status}", "status": 403}
        return self.challenge(number)

    def finalize(self, number: str, payload: dict[str, Any]) -> dict[str, Any]:
        held = self.orders[number]
        if held["proof"] != "valid":
            raise Problem("orderNotReady", "not proven", 403)
        csr = x509.load_der_x509_csr(b64decode(payload["csr"]))
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if not csr.is_signature_valid or names.get_values_for_type(x509.DNSName) != [held["name"]]:
            raise Problem("badCSR", "for another name")
        public: Any = csr.public_key()
        held["certificate"] = self.authority.sign(public, (held["name"],))
        return self.order(number)


def _thumbprint(key: JWK) -> str:
    from josepy.b64 import b64encode

    return b64encode(key.thumbprint()).decode()


class _Handler(BaseHTTPRequestHandler):
    server: AcmeDouble
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        base = self.server.base
        names = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange")
        self._answer(200, {name: f"{base}/{name}" for name in names})

    def do_HEAD(self) -> None:
        self._answer(200, None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.server.problems:
                raise self.server.problems.pop(0)
            self._answer(*self._routed(raw))
        except Problem as problem:
            self._answer(problem.status, problem.body, {"Content-Type": "application/problem+json"})

    def _routed(self, raw: bytes) -> tuple[int, Any, dict[str, str]]:
        server, (kind, _, number) = self.server, self.path.lstrip("/").partition("/")
        key, payload = self._verified(raw, new=kind == "newAccount")
        match kind:
            case "newAccount":
                return server.new_account(key, payload)
            case "newOrder":
                return server.new_order(payload)
            case "order":
                return 200, server.order(number), {}
            case "authz":
                return 200, server.authorization(number), {}
            case "chall":
                return 200, server.look(number, key), {"Link": f'<{server.base}/authz/{number}>;rel="up"'}
            case "finalize":
                return 200, server.finalize(number, payload), {}
            case "cert":
                text = server.orders[number]["certificate"]
                return 200, text, {"Content-Type": "application/pem-certificate-chain"}
        raise Problem("malformed", "no such resource", 404)

    def _verified(self, raw: bytes, *, new: bool) -> tuple[JWK, dict[str, Any]]:
        """RFC 8555, 6.2 to 6.5: who signed, for which address, with a nonce that is used once."""
        signed = jws.JWS.json_loads(raw.decode())
        header: Any = signed.signature.combined
        if self.headers["Content-Type"] != "application/jose+json" or header.url != f"{self.server.base}{self.path}":
            raise Problem("malformed", "for another address")
        nonce = json.loads(b64decode(json.loads(raw)["protected"]))["nonce"]
        if nonce not in self.server.nonces:
            raise Problem("badNonce", "used or unknown")
        self.server.nonces.discard(nonce)
        if new != (header.kid is None):
            raise Problem("malformed", "signed by the wrong kind of key")
        key = header.jwk if new else self.server.accounts.get(header.kid)
        if key is None:
            raise Problem("accountDoesNotExist", "no such account")
        if not signed.verify(key):
            raise Problem("unauthorized", "the signature is wrong", 403)
        return key, json.loads(signed.payload) if signed.payload else {}

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        nonce = secrets.token_urlsafe(16)
        self.server.nonces.add(nonce)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Replay-Nonce", nonce)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None: ...
