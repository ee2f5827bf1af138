"""From an address to its engine. The table is explicit; an engine's SDK is loaded only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from apps.hosts.engines.base import (
    AddressRefused,
    Engine,
    EngineAddress,
    PrunesImages,
    RunsChecks,
    StreamsEvents,
    StreamsLogs,
)


class HostEngine(Engine, StreamsLogs, StreamsEvents, RunsChecks, PrunesImages, Protocol):
    """What every engine of one host can do: the five verbs, logs, events, commands that check, and its images."""


def connect(address: EngineAddress) -> HostEngine:
    """An engine for this address; nothing is sent before its first verb. Close it when done.

    Raises AddressRefused for a kind that is not in the table, or a URL or TLS material that cannot be right.
    """
    try:
        open_engine = _ENGINES[address.kind]
    except KeyError:
        raise AddressRefused(f"there is no engine of the kind {address.kind!r}"[:300]) from None
    return open_engine(address)


def _docker(address: EngineAddress) -> HostEngine:
    from apps.hosts.engines.docker import DockerEngine

    return DockerEngine(address)


def _memory(address: EngineAddress) -> HostEngine:
    if fleet := os.environ.get("BERTH_MEMORY_FLEET"):
        from apps.hosts.engines.memory_remote import RemoteMemoryEngine

        return RemoteMemoryEngine(address, fleet)
    from apps.hosts.engines.memory import MemoryEngine

    return MemoryEngine(address)


_ENGINES: dict[str, Callable[[EngineAddress], HostEngine]] = {"docker": _docker, "memory": _memory}
