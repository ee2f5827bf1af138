"""Conversations with HAProxy's command sockets: the worker's (persistent) and the master's.

Replies are text; an unexpected one raises. Commands are built from typed values by callers, and checked once
more here, because a line feed or a semicolon in one would start another command.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

TIMEOUT_SECONDS = 10.0
# HAProxy reads commands into a 16 KB buffer; several are sent at a time to save round trips.
BATCH_BYTES = 8_000

_COMMAND = re.compile(r"[A-Za-z0-9@!$#][A-Za-z0-9 ._:/\[\]@!$#*+=~-]*")


#: Of what goes behind a command: PEM, or a list's entries. An empty line would end it.
_PAYLOAD = re.compile(r"[A-Za-z0-9*/+-][A-Za-z0-9*./+= -]*")
PAYLOAD_BYTES = 15_000


class CommandError(RuntimeError):
    """HAProxy refused a command, or the conversation broke."""


class Directory:
    """The directory of HAProxy's sockets, held open: /proc/self/fd/N/name is short whatever its path.

    The kernel limits socket paths to 107 bytes, and a gateway's directory may be longer.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def connect(self, name: str, timeout: float = TIMEOUT_SECONDS) -> socket.socket:
        """Raises OSError when nobody listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(f"/proc/self/fd/{self._descriptor}/{name}")
        except OSError:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        os.close(self._descriptor)


class Conversation:
    """A connection in prompt mode. Any error closes it; the owner opens another."""

    def __init__(self, directory: Directory, name: str, prompt: bytes, timeout: float = TIMEOUT_SECONDS) -> None:
        self._prompt = prompt
        self._buffer = bytearray()
        try:
            self._socket = directory.connect(name, timeout)
            self._socket.sendall(b"prompt\n")
            self._reply()
        except OSError as error:
            raise CommandError(f"{name}: {error}") from error

    def run(self, commands: Sequence[str]) -> list[str]:
        """One reply for each command, stripped. Raises CommandError if the conversation breaks."""
        replies: list[str] = []
        try:
            for batch in _batches(commands):
                self._socket.sendall("".join(f"{command}\n" for command in batch).encode("ascii"))
                replies.extend(self._reply() for _ in batch)
        except OSError as error:
            self.close()
            raise CommandError(f"conversation broke: {error}") from error
        return replies

    def load(self, command: str, payload: Sequence[str]) -> str:
        """A command with lines of payload. Raises CommandError if one is not fit, or the conversation breaks."""
        if not payload or not all(_PAYLOAD.fullmatch(line) for line in payload):
            raise CommandError(f"{command[:80]!r}: not a payload")
        if sum(len(line) + 1 for line in payload) > PAYLOAD_BYTES:
            raise CommandError(f"{command[:80]!r}: the payload is too long")
        ((only,),) = _batches([command])
        text = "\n".join((f"{only} <<", *payload, "", ""))
        try:
            self._socket.sendall(text.encode("ascii"))
            return self._reply()
        except OSError as error:
            self.close()
            raise CommandError(f"conversation broke: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _reply(self) -> str:
        looked = 0
        while (end := self._buffer.find(self._prompt, looked)) < 0:
            looked = max(0, len(self._buffer) - len(self._prompt))
            chunk = self._socket.recv(262_144)
            if not chunk:
                raise ConnectionResetError("HAProxy closed the conversation")
            self._buffer += chunk
        reply = self._buffer[:end].decode("utf-8", "replace").strip()
        del self._buffer[: end + len(self._prompt)]
        return reply


def worker(directory: Directory, name: str) -> Conversation:
    return Conversation(directory, name, b"\n> ")


def master(directory: Directory, name: str) -> Conversation:
    return Conversation(directory, name, b"master> ")


def _batches(commands: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for command in commands:
        if not _COMMAND.fullmatch(command):
            raise CommandError(f"not a command: {command[:80]!r}")
        if batch and size + len(command) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += len(command) + 1
    if batch:
        yield batch
