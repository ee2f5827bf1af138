"""A fleet of hosts in memory behind a Unix socket; each container that runs listens on its address and answers checks.

    python -m benchmarks.fleet SOCKET NAME-OF-HOST...

Prints ``ready`` and runs until SIGTERM.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection, Listener
from typing import Any

from apps.hosts.engines.base import ContainerState, EngineAddress, EngineError
from apps.hosts.engines.memory import RUNS, MemoryEngine, MemoryFleet, MemoryHost

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


class Ports:
    """A listening socket for each running container, all served by one thread."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def open(self, address: tuple[str, int]) -> None:
        with self._lock:
            if address not in self._open:
                listening = socket.create_server(address, backlog=512)
                listening.setblocking(False)
                self._open[address] = listening
                self._selector.register(listening, selectors.EVENT_READ)

    def close(self, address: tuple[str, int]) -> None:
        with self._lock:
            listening = self._open.pop(address, None)
            if listening is not None:
                self._selector.unregister(listening)
                listening.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(0.05):
                with contextlib.suppress(OSError):
                    taken, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    taken.settimeout(1)
                    taken.recv(4096)
                    taken.sendall(ANSWER)
                    taken.close()


class Fleet:
    def __init__(self, names: list[str]) -> None:
        self._fleet, self._ports = MemoryFleet(), Ports()
        self._engines = {}
        for name in names:
            self._fleet.add(MemoryHost(url=name, default_behaviour=RUNS))
            self._engines[name] = MemoryEngine(EngineAddress("memory", name), self._fleet)

    def serve(self, connection: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                host, verb, values, named = connection.recv()
                connection.send(self._answer(host, verb, values, named))

    def _answer(self, name: str, verb: str, values: Any, named: Any) -> Any:
        host = self._fleet.get(name)
        assert host is not None
        before = host.containers.get(values[0]) if verb == "remove" else None
        try:
            result = getattr(self._engines[name], verb)(*values, **named)
        except EngineError as error:
            return error
        if before is not None:
            self._ports.close(before.port)
        if verb == "ensure" and result.state is ContainerState.RUNNING:
            self._ports.open(host.containers[result.name].port)
        return result


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fleet = Fleet(sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Listener(sys.argv[1], "AF_UNIX", backlog=512) as listener:
        print("ready", flush=True)
        while True:
            threading.Thread(target=fleet.serve, args=(listener.accept(),), daemon=True).start()


if __name__ == "__main__":
    main()
