"""Memory hosts of another process, for benchmarks whose workers are many processes: the same verbs over a Unix socket.

The environment variable BERTH_MEMORY_FLEET names the socket; the process behind it serves a MemoryFleet (it is
benchmarks/fleet.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Client, Connection
from typing import Any

from apps.hosts.engines.base import (
    CommandResult,
    ContainerEvent,
    ContainerSpec,
    EngineAddress,
    EngineError,
    EngineInfo,
    EngineUnreachable,
    HostImage,
    Observed,
)


class RemoteMemoryEngine:
    """One connection for each thread that calls."""

    def __init__(self, address: EngineAddress, socket: str) -> None:
        self._socket, self._host = socket, address.url
        self._mine = threading.local()

    def ping(self) -> EngineInfo:
        answer: EngineInfo = self._call("ping")
        return answer

    def ensure(self, spec: ContainerSpec, *, pull_token: str) -> Observed:
        answer: Observed = self._call("ensure", spec, pull_token=pull_token)
        return answer

    def remove(self, name: str, *, grace_s: int) -> None:
        self._call("remove", name, grace_s=grace_s)

    def inspect(self, name: str) -> Observed | None:
        answer: Observed | None = self._call("inspect", name)
        return answer

    def list(self, platform: str) -> list[Observed]:
        answer: list[Observed] = self._call("list", platform)
        return answer

    def logs(self, name: str, *, tail: int) -> bytes:
        answer: bytes = self._call("logs", name, tail=tail)
        return answer

    def check(self, name: str, command: Sequence[str], *, timeout_s: int) -> CommandResult:
        answer: CommandResult = self._call("check", name, tuple(command), timeout_s=timeout_s)
        return answer

    def images(self) -> Sequence[HostImage]:
        answer: Sequence[HostImage] = self._call("images")
        return answer

    def image_remove(self, reference: str) -> bool:
        answer: bool = self._call("image_remove", reference)
        return answer

    def events(self, platform: str, *, since: float | None, stop: Callable[[], bool]) -> Iterator[ContainerEvent]:
        """Nothing is streamed: looks at the hosts find what there is to find."""
        raise EngineUnreachable("a fleet in another process has no events")

    def close(self) -> None:
        """Each thread's connection ends with the thread."""

    def _call(self, verb: str, *values: object, **named: object) -> Any:
        try:
            connection: Connection = getattr(self._mine, "connection", None) or Client(self._socket, "AF_UNIX")
            self._mine.connection = connection
            connection.send((self._host, verb, values, named))
            answer = connection.recv()
        except (OSError, EOFError) as error:
            self._mine.connection = None
            raise EngineUnreachable(f"no answer from {self._socket}") from error
        if isinstance(answer, EngineError):
            raise answer
        return answer
