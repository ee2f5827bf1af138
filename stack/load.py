"""Constant requests to one app through the gateway, from a process of its own; says of each that failed how.

    python -m stack.load PORT HOST-HEADER PATH RATE CONNECTIONS

Prints a line of JSON each second until SIGTERM, and then the last one. Half of the connections are kept for many
requests, half are new for each, as browsers and scripts come by.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stack.environment import ROOT, Environment

TIMEOUT_S = 10.0
#: So many failures are told in full.
TOLD = 200
#: A kept connection is given up after so many requests.
KEPT_FOR = 500


@dataclass
class Outcome:
    """``reopened``: kept connections that the gateway had closed before the next request, which any client reopens."""

    requests: int = 0
    failed: int = 0
    reopened: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest_ms: float = 0.0


class _Closed(Exception):
    """A kept connection was closed before a byte of the answer came."""


class _Caller:
    def __init__(self, port: int, host: str, path: str, outcome: Outcome) -> None:
        self._port = port
        self._host, self._path = host, path
        self._outcome = outcome
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0

    async def run(self, *, kept: bool, every_s: float, first_s: float, done: asyncio.Event) -> None:
        due = time.monotonic() + first_s
        while not done.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), wait)
                continue
            # What could not be asked in time is not made up for.
            due = max(due + every_s, time.monotonic())
            await self._once(kept=kept)
        self._close()

    async def _once(self, *, kept: bool) -> None:
        began, outcome = time.time(), self._outcome
        told: dict[str, Any] = {}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                try:
                    status, head = await self._ask(kept=kept)
                except _Closed:
                    outcome.reopened += 1
                    self._close()
                    status, head = await self._ask(kept=kept)
            if status != 200:
                told = {"status": status, "head": head}
        except (Exception, _Closed) as error:  # whatever it is, it is a request that failed
            told = {"error": repr(error)[:300]}
        outcome.requests += 1
        took_ms = (time.time() - began) * 1000
        outcome.slowest_ms = max(outcome.slowest_ms, took_ms)
        if told:
            outcome.failed += 1
            if len(outcome.failures) < TOLD:
                about = {"at": began, "took_ms": round(took_ms, 1), "kept": kept, "nth_on_connection": self._used}
                outcome.failures.append(about | told)
            self._close()
        elif not kept or self._used >= KEPT_FOR:
            self._close()

    async def _ask(self, *, kept: bool) -> tuple[int, str]:
        reused = self._streams is not None
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=65536)
            self._used = 0
        reader, writer = self._streams
        connection = "keep-alive" if kept else "close"
        writer.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nConnection: {connection}\r\n\r\n".encode("ascii")
        )
        self._used += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if reused and not getattr(error, "partial", b""):
                raise _Closed from error
            raise
        text = head.decode("latin-1")
        status = int(text.split(" ", 2)[1])
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in text.split("\r\n")[1:])
        }
        if "content-length" in headers:
            await reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readline()).split(b";")[0], 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        else:
            await reader.read()
            self._close()
        if headers.get("connection") == "close":
            self._close()
        return status, text

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _tell(outcome: Outcome) -> None:
    print(json.dumps(vars(outcome)), flush=True)


async def _main(port: int, host: str, path: str, rate: float, connections: int) -> None:
    outcome, done = Outcome(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    every_s = connections / rate
    calls = [
        _Caller(port, host, path, outcome).run(
            kept=bool(number % 2), every_s=every_s, first_s=every_s * number / connections, done=done
        )
        for number in range(connections)
    ]
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call)
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 1)
            if not done.is_set():
                _tell(outcome)
    _tell(outcome)


@contextmanager
def load(
    env: Environment, app: str, *, rate: float = 100, connections: int = 8, path: str = "/_ping"
) -> Iterator[Outcome]:
    """Requests to the app until the block ends; what is yielded is up to date by a second, and exact afterwards."""
    outcome = Outcome()
    argv = [sys.executable, "-m", "stack.load", str(env.ports["gateway"]), f"{app}.localhost", path]
    process = subprocess.Popen(
        [*argv, str(rate), str(connections)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )

    def read() -> None:
        for line in process.stdout or ():
            vars(outcome).update(json.loads(line))

    reader = threading.Thread(target=read, name="load")
    reader.start()
    try:
        yield outcome
    finally:
        process.terminate()
        reader.join()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])))
