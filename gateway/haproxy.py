"""HAProxy's processes: starts them, adopts running ones, verifies and reloads configurations, stops them.

HAProxy runs in a session of its own and writes to a file, so that it outlives an agent that is killed. All
methods block, for seconds at the most, and are called from one thread.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway import certificates, cli, frame, processes, render
from gateway.state import write_atomically

START_SECONDS = 30.0
RELOAD_SECONDS = 60.0
VERIFY_SECONDS = 120
LOG = "haproxy.log"
LOG_BYTES = 1_000_000

_log = structlog.get_logger(__name__)


class HaproxyError(RuntimeError):
    """HAProxy could not be started, reloaded or spoken to; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Workers:
    """``old``: workers that a reload has replaced and that still finish requests."""

    master: int
    current: int
    old: tuple[int, ...]


class Haproxy:
    def __init__(self, directory: Path, binary: Path) -> None:
        """``directory`` must exist. Leaves it open, and nothing else behind."""
        self._directory = directory
        self._binary = binary
        self._config = directory / render.CONFIG
        self._sockets = cli.Directory(directory)
        self._child: subprocess.Popen[bytes] | None = None
        self.master = 0
        self.worker = 0

    def adopt(self) -> bool:
        """Takes over an HAProxy that runs from this directory. Returns whether there is one."""
        try:
            workers = self.workers()
        except HaproxyError:
            return False
        if not processes.is_ours(workers.master, self._config) or not workers.current:
            return False
        self.master, self.worker = workers.master, workers.current
        _log.info("haproxy.adopted", master=self.master, worker=self.worker)
        return True

    def runs_with(self, head: str) -> bool:
        """Whether the configuration in place begins so."""
        try:
            return self._config.read_bytes().startswith(head.encode())
        except OSError:
            return False

    def alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
            return False
        return bool(self.master) and processes.is_ours(self.master, self._config)

    def start(self, config: str, maps: Mapping[str, str]) -> tuple[int, ...]:
        """Starts HAProxy. Returns workers left from a dead master, which are told to finish.

        Raises HaproxyError when it does not come up; then nothing of this attempt is left running.
        """
        left = tuple(processes.ours(self._config))
        self._write(config, maps)
        log = self._directory / LOG
        with log.open("ab") as output:
            if output.tell() > LOG_BYTES:
                output.truncate(0)
            self._child = subprocess.Popen(
                [str(self._binary), "-W", "-S", f"unix@{frame.MASTER_SOCKET},mode,600", "-f", str(self._config)],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.master, self.worker = self._child.pid, 0
        try:
            self._await_worker(before=0, seconds=START_SECONDS)
        except HaproxyError:
            self._end(processes.ours(self._config), left)
            raise
        for pid in left:
            processes.send(pid, self._config, signal.SIGUSR1)
        _log.info("haproxy.started", master=self.master, worker=self.worker, left=left)
        return left

    def reload(self, config: str, maps: Mapping[str, str]) -> None:
        """A new worker takes the listeners over; the old one finishes its requests.

        Raises HaproxyError when the new configuration is refused; the old worker then goes on as before.
        """
        before = self.worker
        old = self._config.read_text("utf-8") if self._config.exists() else None
        self._write(config, maps)
        try:
            self._ask_master("reload", RELOAD_SECONDS)
            self._await_worker(before, RELOAD_SECONDS)
        except HaproxyError:
            if old is not None:
                write_atomically(self._config, old)
            raise
        _log.info("haproxy.reloaded", master=self.master, old=before, worker=self.worker)

    def workers(self) -> Workers:
        """Raises HaproxyError when no master answers."""
        return _parse_processes(self._ask_master("show proc", cli.TIMEOUT_SECONDS))

    def talk(self) -> cli.Conversation:
        """A conversation with the current worker. Raises CommandError."""
        conversation = cli.worker(self._sockets, frame.ADMIN_SOCKET)
        pid = _worker_of(conversation)
        if pid != self.worker:
            conversation.close()
            raise cli.CommandError(f"worker {pid} answers, not {self.worker}")
        return conversation

    def talk_to_master(self) -> cli.Conversation:
        return cli.master(self._sockets, frame.MASTER_SOCKET)

    def stop(self, seconds: float) -> None:
        """Lets requests finish for that long, then ends every process of ours."""
        pids = processes.ours(self._config)
        if seconds > 0 and self.master in pids:
            processes.send(self.master, self._config, signal.SIGUSR1)
            self._await_end(pids, seconds)
        self._end(processes.ours(self._config), ())
        self.master = self.worker = 0
        _log.info("haproxy.stopped")

    def end_worker(self, pid: int) -> None:
        """Ends a replaced worker with the requests that it still has."""
        processes.send(pid, self._config, signal.SIGTERM)

    def lives(self, pid: int) -> bool:
        return processes.is_ours(pid, self._config)

    def certificate(self, file: str) -> list[str]:
        """The lines of one of its files. Raises OSError."""
        return [line for line in (self._directory / file).read_text("ascii").splitlines() if line]

    def close(self) -> None:
        self._sockets.close()

    def _write(self, config: str, maps: Mapping[str, str]) -> None:
        """Verifies a configuration, then puts it in place."""
        for name, text in render.pages().items():
            if not _holds(self._directory / name, text):
                write_atomically(self._directory / name, text)
        certificates.fallback(self._directory / render.FALLBACK)
        for name, text in maps.items():
            write_atomically(self._directory / name, text)
        candidate = self._directory / (render.CONFIG + ".candidate")
        write_atomically(candidate, config)
        try:
            done = subprocess.run(
                [str(self._binary), "-c", "-q", "-f", str(candidate)],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=VERIFY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HaproxyError(f"cannot verify the configuration: {error}") from error
        if done.returncode:
            raise HaproxyError(f"configuration refused: {done.stderr.decode('utf-8', 'replace')[-800:]}")
        candidate.replace(self._config)

    def _ask_master(self, command: str, seconds: float) -> str:
        """The master closes the connection after a command once our half is closed."""
        deadline = time.monotonic() + seconds
        try:
            with self._sockets.connect(frame.MASTER_SOCKET, seconds) as connection:
                connection.sendall(f"{command}\n".encode("ascii"))
                connection.shutdown(1)
                reply = b""
                while chunk := connection.recv(65_536):
                    reply += chunk
                    connection.settimeout(max(0.1, deadline - time.monotonic()))
        except OSError as error:
            raise HaproxyError(f"{command}: {error}") from error
        return reply.decode("utf-8", "replace")

    def _await_worker(self, before: int, seconds: float) -> None:
        """Waits for a worker other than ``before`` that answers on the command socket."""
        deadline = time.monotonic() + seconds
        why = "no answer"
        while time.monotonic() < deadline:
            if not self.alive():
                raise HaproxyError(f"HAProxy ended: {self._last_words()}")
            try:
                workers = self.workers()
                self.master = workers.master
                if workers.current not in (0, before):
                    self.worker = workers.current
                    self.talk().close()
                    return
                if before and workers.current == before:
                    raise HaproxyError(f"reload refused: {self._last_words()}")
            except (cli.CommandError, OSError) as error:
                why = str(error)
            except HaproxyError as error:
                # The master does not answer while it executes itself anew; a refusal is final.
                if "reload refused" in str(error):
                    raise
                why = str(error)
            time.sleep(0.02)
        raise HaproxyError(f"no new worker after {seconds:g} s: {why}")

    def _last_words(self) -> str:
        try:
            return (self._directory / LOG).read_bytes()[-600:].decode("utf-8", "replace")
        except OSError:
            return "(no log)"

    def _end(self, pids: list[int], spare: tuple[int, ...]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                if pid not in spare:
                    processes.send(pid, self._config, number)
            if not self._await_end([pid for pid in pids if pid not in spare], 2.0):
                return

    def _await_end(self, pids: list[int], seconds: float) -> list[int]:
        """Also reaps our child, whose command line is gone as soon as it is a zombie."""
        left = processes.await_end(pids, self._config, seconds)
        child = self._child
        if child is not None and child.pid not in left:
            try:
                child.wait(1)
                self._child = None
            except subprocess.TimeoutExpired:
                left.append(child.pid)
        return left


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _worker_of(conversation: cli.Conversation) -> int:
    (info,) = conversation.run(["show info"])
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key == "Pid":
            return int(value)
    raise cli.CommandError("show info names no Pid")


def _parse_processes(text: str) -> Workers:
    """HAProxy 2.6, management guide, `show proc`: a section for workers, and one for old workers."""
    master, current, old = 0, 0, []
    section = ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith("# "):
            section = line[2:].strip()
        elif len(words) >= 2 and words[0].isdigit():
            if words[1] == "master":
                master = int(words[0])
            elif words[1] == "worker" and section == "workers":
                current = int(words[0])
            elif words[1] == "worker":
                old.append(int(words[0]))
    if not master:
        raise HaproxyError(f"show proc names no master: {text[:200]!r}")
    return Workers(master, current, tuple(old))
