"""Is it ready? Small questions over the wire; each answers within about a second and raises OSError for "no"."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path

_TIMEOUT_S = 1.0


def tcp(port: int, address: str = "127.0.0.1") -> bool:
    with socket.create_connection((address, port), timeout=_TIMEOUT_S):
        return True


def exchange(port: int, question: bytes, expected: bytes, address: str = "127.0.0.1") -> bool:
    """Sends a line and looks for an answer in the first 4 KiB that come back."""
    with socket.create_connection((address, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(question)
        answer = b""
        while expected not in answer and len(answer) < 4096:
            received = connection.recv(4096)
            if not received:
                break
            answer += received
        return expected in answer


def http_status(port: int, path: str, host: str = "localhost", address: str = "127.0.0.1") -> int:
    """The status of a GET; raises OSError or ConnectionError when nobody answers HTTP."""
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    return _status(connection, path, host)


def https_status(address: str, port: int, path: str, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(address, port, timeout=_TIMEOUT_S, context=context)
    return _status(connection, path, address)


def _status(connection: http.client.HTTPConnection, path: str, host: str) -> int:
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()


def trusting(ca: Path) -> ssl.SSLContext:
    """A context that trusts this authority and no other."""
    return ssl.create_default_context(cafile=str(ca))


def unix_http_status(path: Path, url: str) -> int:
    """The status of a GET over a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(f"GET {url} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        first = connection.makefile("rb").readline().split()
    if len(first) < 2 or not first[1].isdigit():
        raise ConnectionError(f"no HTTP answer on {path}")
    return int(first[1])
