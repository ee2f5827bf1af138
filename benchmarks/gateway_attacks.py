"""What an attack costs others: p99 of another tenant's app in paired rounds, with the attack and without."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gateway_changes import Changing
from benchmarks.gateway_parts import LOAD_CORE
from benchmarks.report import tell
from tests.security.gateway_corpus import CORPUS

SLOW_CONNECTIONS = 1500
PAUSE = 0.005


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def _slow_heads(port: int) -> None:
    """Many connections that never finish their request; each says a byte now and then."""
    opened: list[socket.socket] = []
    while True:
        while len(opened) < SLOW_CONNECTIONS:
            connection = _connect(port)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: app-00001.bench.test\r\nX-Slow: ")
            opened.append(connection)
        for connection in list(opened):
            try:
                connection.send(b"a")
            except OSError:
                opened.remove(connection)
                connection.close()
            time.sleep(PAUSE / 5)


def _raw(port: int, raw: bytes) -> None:
    with contextlib.suppress(OSError), _connect(port) as connection:
        connection.sendall(raw)
        connection.settimeout(0.05)
        connection.recv(65536)


def _smuggling(port: int) -> None:
    while True:
        for raw in CORPUS.values():
            _raw(port, raw.replace(b"shop.test", b"app-00001.bench.test"))
            time.sleep(PAUSE)


def _large_headers(port: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: app-00001.bench.test\r\nX-Large: " + b"x" * 100_000 + b"\r\n\r\n"
    while True:
        _raw(port, raw)
        time.sleep(PAUSE)


def _many_headers(port: int) -> None:
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(1000))
    raw = b"GET / HTTP/1.1\r\nHost: app-00001.bench.test\r\n" + lines + b"\r\n"
    while True:
        _raw(port, raw)
        time.sleep(PAUSE)


def _unknown_hosts(port: int) -> None:
    """Ten thousand names, one after the other, with many on one connection."""
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            for number in range(10_000):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: %05d.unknown.test\r\n\r\n" % number)
                if not connection.recv(65536):
                    break
                time.sleep(PAUSE / 5)


ATTACKS: dict[str, Callable[[int], None]] = {
    "slow_heads": _slow_heads,
    "smuggling": _smuggling,
    "large_headers": _large_headers,
    "many_headers": _many_headers,
    "unknown_hosts": _unknown_hosts,
}


def _attack(name: str, port: int) -> None:
    os.sched_setaffinity(0, {LOAD_CORE})
    os.nice(5)
    with contextlib.suppress(OSError, KeyboardInterrupt):
        ATTACKS[name](port)


def measure(at: Changing, rounds: int, seconds: float) -> dict[str, Any]:
    """Each round: without, with; the median of the ratios."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    for name in ATTACKS:
        without, attacked, failed = [], [], 0
        for _ in range(rounds):
            quiet = at.load(seconds).result()
            attacker = context.Process(target=_attack, args=(name, at.gateway.port), daemon=True)
            attacker.start()
            try:
                at.load(1).result()  # until the attack is at its height
                result = at.load(seconds).result()
            finally:
                attacker.kill()
                attacker.join(10)
            without.append(quiet.p99_ms)
            attacked.append(result.p99_ms)
            failed += result.failed
        ratio = statistics.median(b / a for a, b in zip(without, attacked, strict=True))
        found[name] = {
            "p99_ratio": round(ratio, 3),
            "p99_ms_without": statistics.median(without),
            "p99_ms_attacked": statistics.median(attacked),
            "failed": failed,
        }
        tell(f"{name}: {found[name]}")
    return found
