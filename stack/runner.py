"""Starts parts in order, waits until each serves, and stops them so that nothing is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from stack import network, ports, processes, supervision
from stack.environment import short_path
from stack.parts.base import MissingPrograms, Part, PartFailed, StackError, is_root, missing_message
from stack.pki import write_private

_LOG_LINES = 25
_SUPERVISOR_WAIT_S = 15.0
_SHUTDOWN_WAIT_S = 120.0


class AlreadyRunning(StackError):
    """Another live runner holds the directory."""


class Stack:
    """Parts of one environment directory under one supervisord.

    ``say`` gets one line for each step; it is None for silence. As a context manager it starts and stops.
    A part whose ``after`` names something outside of the stack does not wait for it. ``forget`` names files, and
    directories to be emptied, that a start begins without: only once no other runner can be using them.
    """

    def __init__(
        self,
        directory: Path,
        parts: Sequence[Part],
        *,
        say: Callable[[str], None] | None = None,
        forget: Sequence[str] = (),
    ) -> None:
        names = [part.name for part in parts]
        if len(set(names)) != len(names):
            raise ValueError(f"two parts of the same name: {names}")
        self.directory = directory.resolve()
        self.id = processes.stack_id(self.directory)
        self.parts = {part.name: part for part in _ordered(parts)}
        self._say = say or (lambda line: None)
        self._forget = forget
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._supervisor = supervision.Supervisor(_socket(self.directory, self.id))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Whole stack

    def start(self) -> None:
        """Starts every part; on any failure or Ctrl-C what it had started is stopped, and the error goes on.

        Raises MissingPrograms, PortTaken, AlreadyRunning or PartFailed, each with what to do.
        """
        missing = [(part.name, need) for part in self.parts.values() for need in part.needs if not need.met()]
        if missing:
            raise MissingPrograms(missing_message(missing))
        for name in ("run", "log"):
            (self.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._acquire()
        try:
            self._clear()
            for name in self._forget:
                _empty(self.directory / name)
            ports.check(port for part in self.parts.values() for port in part.ports)
            self._launch()
            self._start_parts()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops in the opposite order, then makes sure that no process, device or mount of ours is left."""
        # A second Ctrl-C while stopping would leave half of it running: it waits until we are done.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._clear()
        finally:
            self._release()
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _clear(self) -> None:
        """Ends what runs for this directory: ours, or that of an earlier runner that was killed."""
        if processes.marked(self.id):
            if self._supervisor.answers():
                self._supervisor.shutdown()
                # Each part's stop_wait_s bounds it; this is for a supervisord that hangs.
                processes.wait_until(self._ended, _SHUTDOWN_WAIT_S)
            for command in processes.sweep(self.id, grace_s=0.0 if self._process else 5.0):
                self._say(f"ended a leftover process: {command[:100]}")
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._supervisor.socket.unlink(missing_ok=True)
        for part in reversed(self.parts.values()):
            if part.cleanup is not None:
                part.cleanup()
        if is_root():
            network.purge(self.id)
        _remove_fallback(self._supervisor.socket.parent, self.directory)

    def _ended(self) -> bool:
        if self._process is not None:
            self._process.poll()
        return not processes.marked(self.id)

    def _launch(self) -> None:
        config = self.directory / "run" / "supervisord.conf"
        self._supervisor.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = supervision.configuration(self.directory, self._supervisor.socket, self.parts.values())
        write_private(config, text.encode())
        self._process = supervision.launch(self.directory, self.id, config)
        if not self._supervisor.wait_answering(self._process, _SUPERVISOR_WAIT_S):
            raise PartFailed(f"supervisord does not answer:\n{self._tail('supervisord-output')}")

    def _start_parts(self) -> None:
        """Each as soon as all that it comes after is ready, so that slow ones start side by side."""
        waiting = dict(self.parts)
        started: dict[str, tuple[float, int]] = {}
        done: set[str] = set()
        while waiting or started:
            for name, part in list(waiting.items()):
                if all(other in done or other not in self.parts for other in part.after):
                    started[name] = (time.monotonic(), self._begin(part))
                    del waiting[name]
            for name, (since, first_pid) in list(started.items()):
                if self._is_ready(self.parts[name], since, first_pid):
                    del started[name]
                    done.add(name)
                    took = time.monotonic() - since
                    self._say(f"[{len(done)}/{len(self.parts)}] {name} is ready ({took:.1f} s)")
            if started:
                time.sleep(0.05)

    def _begin(self, part: Part) -> int:
        if part.prepare is not None:
            part.prepare()
        supervision.log_path(self.directory, part.name).touch(mode=0o600)
        try:
            self._supervisor.start(part.name)
        except StackError as error:
            raise self._failure(part, f"cannot be started: {error}") from error
        return self.pid(part.name)

    def _is_ready(self, part: Part, since: float, first_pid: int) -> bool:
        """Raises PartFailed when it ended, was started a second time, or is late."""
        state, pid, words = self._supervisor.states()[part.name]
        if state not in supervision.STARTING or (first_pid and pid != first_pid):
            raise self._failure(part, f"ended while starting ({state.lower()}: {words})")
        try:
            if part.ready():
                return True
            reason = "its answer is not the right one yet"
        except OSError as error:
            reason = str(error)
        if time.monotonic() - since > part.start_wait_s:
            raise self._failure(part, f"was not ready within {part.start_wait_s:.0f} s: {reason}")
        return False

    def _failure(self, part: Part, what: str) -> PartFailed:
        path = supervision.log_path(self.directory, part.name)
        lines = [f"{part.name} {what}.", f"The last lines of {path}:", self._tail(part.name)]
        return PartFailed("\n".join([*lines, part.hint] if part.hint else lines))

    def _tail(self, name: str) -> str:
        try:
            text = supervision.log_path(self.directory, name).read_text(errors="replace")
        except OSError:
            text = ""
        return "\n".join(f"  {line}" for line in text.splitlines()[-_LOG_LINES:]) or "  (it is empty)"

    # One part

    def states(self) -> dict[str, tuple[str, int, str]]:
        """State, pid and supervisord's words for every part; empty when nothing runs."""
        return self._supervisor.states() if self._supervisor.answers() else {}

    def pid(self, name: str) -> int:
        """The part's process; 0 when it does not run. For a Docker host see ``DockerHost.dockerd_pid``."""
        return self._supervisor.states()[name][1]

    def log_path(self, name: str) -> Path:
        return supervision.log_path(self.directory, name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """A signal to the part's first process, as a fault. A part with ``autorestart`` comes back by itself."""
        pid = self.pid(name)
        if not pid:
            raise StackError(f"{name} does not run")
        os.kill(pid, number)

    def stop_part(self, name: str) -> None:
        self._supervisor.stop(name)

    def start_part(self, name: str) -> None:
        """Starts a part that was stopped or that died, and waits until it is ready."""
        part = self.parts[name]
        since = time.monotonic()
        first_pid = self._begin(part)
        while not self._is_ready(part, since, first_pid):
            time.sleep(0.05)

    def restart(self, name: str) -> None:
        self.stop_part(name)
        self.start_part(name)

    def dead_parts(self) -> list[str]:
        """Parts that should run and do not, with supervisord's words."""
        states = self.states()
        return [
            f"{name}: {states[name][2]}" if name in states else name
            for name in self.parts
            if name not in states or states[name][0] not in supervision.STARTING | {"BACKOFF"}
        ]

    # Only one runner for a directory

    def _acquire(self) -> None:
        path = self.directory / "run" / "runner.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.pread(descriptor, 32, 0).decode().strip()
            os.close(descriptor)
            raise AlreadyRunning(
                f"{self.directory} is in use by pid {who or '?'}: stop that one first (Ctrl-C there), "
                f"or use another directory with BERTH_VAR_ROOT and other ports with BERTH_PORT_*."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _socket(directory: Path, identity: str) -> Path:
    return short_path(directory, identity, "supervisor.sock")


def _remove_fallback(socket_directory: Path, directory: Path) -> None:
    """Short paths in the system's temporary directory are for the time of a run only."""
    if directory not in socket_directory.parents:
        shutil.rmtree(socket_directory, ignore_errors=True)


def _empty(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    else:
        path.unlink(missing_ok=True)


def _ordered(parts: Sequence[Part]) -> list[Part]:
    """Every part after those that it depends on; ValueError for a circle."""
    names = {part.name for part in parts}
    result: list[Part] = []
    rest = list(parts)
    while rest:
        placed = {part.name for part in result}
        free = [part for part in rest if placed.issuperset(names.intersection(part.after))]
        if not free:
            raise ValueError(f"parts wait for each other: {[part.name for part in rest]}")
        result += free
        rest = [part for part in rest if part not in free]
    return result
