"""Asking instances how they are: many at once, on one thread, with plain asyncio streams.

An HTTP client library costs several times more per request than the few lines here (docs/decisions/0007-probes.md), and
a probe must never follow a redirect, keep a connection or decode a body.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

# RFC 9110, section 15: three digits. Never int() of more: what comes back is a tenant's text.
_STATUS = re.compile(rb"[1-5][0-9]{2}")
TIMEOUT_S = 2.0
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Target:
    """An instance's address, and the path that must answer 200 to 399; with no path a TCP connect is enough."""

    pk: int
    host: str
    port: int
    path: str


async def probe(target: Target) -> str | None:
    """None if it is well, else what was wrong in a few words. Takes at most TIMEOUT_S seconds."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _ask(target)
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except OSError as error:
        # By its number: asyncio's own text has the host's address, and the answer is shown to tenants.
        return os.strerror(error.errno) if error.errno else "connection failed"
    except Exception as error:  # one tenant's answer must never end the batch that asks all of them
        return f"its answer could not be read ({type(error).__name__})"


async def _ask(target: Target) -> str | None:
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=8192)
    try:
        if not target.path:
            return await _stays_open(reader)
        request = (
            f"GET {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
            "User-Agent: berth-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        try:
            line = await reader.readline()
        except ValueError:
            return "its answer is not HTTP"
        if not line:
            return "it closed the connection without an answer"
        parts = line.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not _STATUS.fullmatch(parts[1].strip()):
            return "its answer is not HTTP"
        code = int(parts[1])
        return None if 200 <= code < 400 else f"it answered {code}"
    finally:
        writer.close()


async def _stays_open(reader: asyncio.StreamReader) -> str | None:
    """Docker's proxy accepts for a port on which nobody listens, and closes at once: an open port stays open."""
    try:
        async with asyncio.timeout(0.2):
            return None if await reader.read(1) else "it closed the connection at once"
    except TimeoutError:
        return None


async def probe_all(targets: Sequence[Target]) -> dict[int, str | None]:
    """Instance id -> result, a bounded number at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(target: Target) -> tuple[int, str | None]:
        async with gate:
            return target.pk, await probe(target)

    return dict(await asyncio.gather(*(one(target) for target in targets)))


def ask(targets: Sequence[Target]) -> dict[int, str | None]:
    """Probe them all, from code that is not asynchronous itself."""
    return asyncio.run(probe_all(targets))
