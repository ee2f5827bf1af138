"""Raw requests that make two HTTP parsers disagree, in the forms that are known, and a backend that records every byte.

Each holds, where one reading has a body or nothing, what another reading takes for a second request: for /smuggled, of
another tenant's host.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

from gateway.contract import Address

SECOND = b"GET /smuggled HTTP/1.1\r\nHost: other.test\r\nX-Ignore: "
CHUNKED_END = b"0\r\n\r\n"


def _post(
    *headers: bytes, body: bytes = b"", line: bytes = b"POST /first HTTP/1.1", host: bytes = b"shop.test"
) -> bytes:
    return b"\r\n".join([line, b"Host: " + host, *headers]) + b"\r\n\r\n" + body


def _length(number: int) -> bytes:
    return b"Content-Length: %d" % number


_CLTE = CHUNKED_END + SECOND
_TE = b"Transfer-Encoding: chunked"
#: How TE is written by somebody who wants one of two servers not to see it (Kettle, "HTTP Desync Attacks", 2019).
_DISGUISES = {
    "xchunked": b"Transfer-Encoding: xchunked",
    "space before colon": b"Transfer-Encoding : chunked",
    "tab before colon": b"Transfer-Encoding\t: chunked",
    "tab after colon": b"Transfer-Encoding:\tchunked",
    "vertical tab": b"Transfer-Encoding:\x0bchunked",
    "form feed": b"Transfer-Encoding: \x0cchunked",
    "twice, the second unknown": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "twice, the first unknown": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "list, chunked first": b"Transfer-Encoding: chunked, identity",
    "quoted": b'Transfer-Encoding: "chunked"',
    "folded": b"Transfer-Encoding:\r\n chunked",
    "line begins with a space": b" Transfer-Encoding: chunked",
    "header name with underscore": b"Transfer_Encoding: chunked",
    "header hidden by bare LF": b"X: y\nTransfer-Encoding: chunked",
    "header hidden by bare CR": b"X: y\rTransfer-Encoding: chunked",
    "NUL in value": b"Transfer-Encoding: chunked\x00",
    "NUL in name": b"Transfer\x00-Encoding: chunked",
    "eighth bit": b"Transfer-Encoding: chunked\xa0",
    "parameter": b"Transfer-Encoding: chunked;a=b",
    "upper case": b"TRANSFER-ENCODING: CHUNKED",
}

CORPUS: dict[str, bytes] = {
    "CL.TE": _post(_length(len(_CLTE)), _TE, body=_CLTE),
    "TE.CL": _post(b"Content-Length: 4", _TE, body=b"5c\r\n" + SECOND.ljust(0x5C, b"x") + b"\r\n" + CHUNKED_END),
    **{f"CL.TE, {how}": _post(_length(len(_CLTE)), te, body=_CLTE) for how, te in _DISGUISES.items()},
    "two lengths": _post(b"Content-Length: 0", _length(len(SECOND)), body=SECOND),
    "two lengths, the longer first": _post(_length(len(SECOND)), b"Content-Length: 0", body=SECOND),
    "list of lengths": _post(b"Content-Length: 0, %d" % len(SECOND), body=SECOND),
    "length with plus": _post(b"Content-Length: +%d" % len(SECOND), body=SECOND),
    "length with minus": _post(b"Content-Length: -%d" % len(SECOND), body=SECOND),
    "length with a space inside": _post(b"Content-Length: 1 0", body=SECOND),
    "length in hexadecimal": _post(b"Content-Length: 0x10", body=SECOND),
    "length too large for 64 bits": _post(b"Content-Length: 18446744073709551616", body=SECOND),
    "length of 2^64, and a second request": _post(
        b"Content-Length: 18446744073709551616", body=SECOND.replace(b"X-Ignore: ", b"\r\n")
    ),
    "length of 2^64 + 1": _post(b"Content-Length: 18446744073709551617", body=b"x" + SECOND + b"\r\n\r\n"),
    "length with zeros in front": _post(b"Content-Length: " + b"0" * 20 + b"1", body=b"x" + SECOND),
    "length empty": _post(b"Content-Length: ", body=SECOND),
    "length with a space before the colon": _post(b"Content-Length : %d" % len(SECOND), body=SECOND),
    "length of a GET": _post(_length(len(SECOND)), line=b"GET /first HTTP/1.1", body=SECOND),
    "length with underscore": _post(b"Content_Length: 0", _length(len(SECOND)), body=SECOND),
    "chunk size overflows": _post(_TE, body=b"10000000000000000\r\n" + SECOND),
    "chunk size negative": _post(_TE, body=b"-1\r\n" + SECOND),
    "chunk size with 0x": _post(_TE, body=b"0x5\r\n" + SECOND),
    "chunk without CR": _post(_TE, body=b"5\nhello\n0\n\n" + SECOND),
    "chunk extension with a line feed": _post(_TE, body=b"5;a=\nb\r\nhello\r\n0\r\n\r\n" + SECOND),
    "chunk longer than said": _post(_TE, body=b"5\r\nhelloXX\r\n0\r\n\r\n" + SECOND),
    "bare LF ends the head": b"POST /first HTTP/1.1\nHost: shop.test\nContent-Length: %d\n\n" % len(SECOND) + SECOND,
    "TE in HTTP/1.0": _post(_length(len(_CLTE)), _TE, line=b"POST /first HTTP/1.0", body=_CLTE),
    "HTTP/0.9": b"GET /first\r\n" + SECOND,
    "h2c upgrade": _post(
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        line=b"GET /first HTTP/1.1",
        body=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECOND,
    ),
    "h2c with a body": _post(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", _length(len(SECOND)), body=SECOND
    ),
    "two hosts": _post(b"Host: other.test", line=b"GET /first HTTP/1.1"),
    "two hosts, the other first": _post(b"Host: shop.test", line=b"GET /first HTTP/1.1", host=b"other.test"),
    "absolute form of another host": _post(line=b"GET http://other.test/smuggled HTTP/1.1"),
    "host folded": b"GET /first HTTP/1.1\r\nHost: shop.test\r\n other.test\r\n\r\n",
    "host with a space before the colon": b"GET /first HTTP/1.1\r\nHost : other.test\r\nHost: shop.test\r\n\r\n",
    "no host": b"GET /first HTTP/1.1\r\n\r\n",
    "line feed in the target": b"GET /first\nHost: other.test HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "NUL in the target": b"GET /first\x00 HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "NUL in a header": _post(b"X-Some: a\x00b", line=b"GET /first HTTP/1.1"),
    "space in a header's name": _post(b"X Some: a", line=b"GET /first HTTP/1.1"),
    "connection names what frames": _post(b"Connection: content-length", _length(len(SECOND)), body=SECOND),
    "expectation": _post(b"Expect: 100-continue", _length(len(SECOND)), body=SECOND),
    "expectation unknown": _post(b"Expect: 200-ok", _length(len(SECOND)), body=SECOND),
}


@dataclass
class Recorder:
    """A backend that reads as strictly as RFC 9112 lets it, answers each request, and keeps what it saw.

    ``ambiguous``: heads that another server might frame otherwise.
    """

    requests: list[bytes] = field(default_factory=list)
    ambiguous: list[bytes] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def clear(self) -> None:
        self.requests.clear()
        self.ambiguous.clear()
        self.received.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, OverflowError), connection.makefile("rb") as reader:
            while head := self._head(reader):
                lines = head.split(b"\r\n")
                names = [line.partition(b":")[0].lower() for line in lines[1:] if line]
                values = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines[1:]}
                framing = names.count(b"content-length") + names.count(b"transfer-encoding")
                odd = any(b"\n" in line or b"\r" in line for line in lines)
                token = all(name.replace(b"-", b"").isalnum() for name in names)
                if framing > 1 or odd or not token or names.count(b"host") != 1:
                    self.ambiguous.append(head)
                self.requests.append(lines[0])
                if b"transfer-encoding" in values:
                    self._chunks(reader)
                else:
                    self.received += reader.read(int(values.get(b"content-length", b"0")))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _head(self, reader: object) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reader.readline()  # type: ignore[attr-defined]
            if not line:
                return b""
            self.received += line
            head += line
        return head[:-4]

    def _chunks(self, reader: object) -> None:
        while True:
            size = int(reader.readline().partition(b";")[0], 16)  # type: ignore[attr-defined]
            data = reader.read(size + 2)  # type: ignore[attr-defined]
            self.received += data
            if not size:
                return


def talk(port: int, raw: bytes, seconds: float = 1.0) -> list[int]:
    """Sends it, says that there is no more, and reads until the other end closes: the statuses of all answers."""
    answers = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection, contextlib.suppress(OSError):
        connection.sendall(raw)
        connection.settimeout(seconds)
        while chunk := connection.recv(65536):
            answers += chunk
    found = answers.split(b"HTTP/1.1 ")[1:]
    return [int(answer[:3]) for answer in found]
