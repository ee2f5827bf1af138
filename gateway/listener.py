"""Reads HAProxy's lines, one a datagram, in a thread of its own. Whatever happens here, no request waits for it.

HAProxy never waits for a reader: what finds the socket's buffer full is lost, and the kernel counts it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading

import structlog

from gateway.contract import Address
from gateway.traffic import ACCESS_LINE_BYTES, Counters

BUFFER_BYTES = 8 * 1024 * 1024
RETRY_SECONDS = 5.0
WAIT_SECONDS = 0.5
MOST_LINES = 2000
# What one short datagram takes of a socket's buffer, and how many a second must not overrun it between two readings.
DATAGRAM_BYTES = 832
LINES_A_SECOND = 100_000
LONGEST_PAUSE = 0.05

# Linux, include/uapi/asm-generic/socket.h; Python names none of the two.
_SO_RCVBUFFORCE = 33
_SO_RXQ_OVFL = 40
_COUNT = struct.Struct("=I")

_log = structlog.get_logger(__name__)


class Listener:
    """Listens from `begin` to `end`. A taken port is tried again; meanwhile the counters say so."""

    def __init__(self, bind: Address, counters: Counters) -> None:
        self._bind = bind
        self._counters = counters
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                with _socket(self._bind) as opened:
                    said = ""
                    self._counters.listening = True
                    self._read(opened)
            except OSError as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("traffic.not_listening", bind=str(self._bind), error=said)
            finally:
                self._counters.listening = False
            self._stopping.wait(RETRY_SECONDS)

    def _read(self, opened: socket.socket) -> None:
        held = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # A line at a time would wake this thread for each request. The buffer says how long it may sleep.
        pause = min(LONGEST_PAUSE, held / DATAGRAM_BYTES / LINES_A_SECOND)
        before = self._counters.dropped
        ready = select.poll()
        ready.register(opened, select.POLLIN)
        while not self._stopping.is_set():
            if not ready.poll(WAIT_SECONDS * 1000):
                continue
            lines: list[bytes] = []
            ancillary: list[tuple[int, int, bytes]] = []
            with contextlib.suppress(BlockingIOError):
                first, ancillary, _, _ = opened.recvmsg(ACCESS_LINE_BYTES, 64)
                lines.append(first)
                while len(lines) < MOST_LINES:
                    lines.append(opened.recv(ACCESS_LINE_BYTES))
            self._counters.take(lines)
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                    self._counters.dropped = before + _COUNT.unpack(data[: _COUNT.size])[0]
            if len(lines) < MOST_LINES:
                self._stopping.wait(pause)


def _socket(bind: Address) -> socket.socket:
    """Raises OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        try:
            # Beyond the system's limit (net.core.rmem_max), with CAP_NET_ADMIN.
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        except OSError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        opened.bind((bind.host, bind.port))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened
