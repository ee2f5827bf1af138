"""Talks to supervisord, and writes its configuration file."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from stack.parts.base import Part, StackError, is_root, search_path
from stack.processes import MARKER, wait_until

_LOG_BYTES = 20 * 1024 * 1024
_NOT_OURS = ("BERTH_", "DJANGO_", "DATABASE_URL", "CELERY_", "SUPERVISOR_", "DOCKER_", "PYTEST_")


def _escaped(text: str) -> str:
    """supervisord expands %(name)s in every value."""
    return text.replace("%", "%%")


def _command(argv: Sequence[str]) -> str:
    text = shlex.join(argv)
    # The file has no way to write them: a line ends at its end, or where a comment begins.
    if "\n" in text or " ;" in text:
        raise ValueError(f"supervisord cannot take an argument with a line end or ' ;': {text[:200]!r}")
    return _escaped(text)


def _environment(variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        # Its reader knows no escapes inside quotes.
        if '"' in value or "\n" in value:
            raise ValueError(f"{name} holds a quote or a line end, which supervisord cannot take")
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in variables.items())


def log_path(directory: Path, name: str) -> Path:
    return directory / "log" / f"{name}.log"


def configuration(directory: Path, socket: Path, parts: Iterable[Part]) -> str:
    """The text of supervisord.conf; holds secrets, so the file must be private."""
    run, log = directory / "run", directory / "log"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    lines = [
        "[unix_http_server]",
        f"file={_escaped(str(socket))}",
        "chmod=0600",
        "[supervisord]",
        f"logfile={_escaped(str(log / 'supervisord.log'))}",
        f"pidfile={_escaped(str(run / 'supervisord.pid'))}",
        f"childlogdir={_escaped(str(log))}",
        "logfile_backups=1",
        "nodaemon=true",
        "silent=true",
        "umask=022",
        f"minfds={max(soft, files)}",
        *(["user=root"] if is_root() else []),
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for priority, part in enumerate(parts, start=1):
        yes = "true" if part.stop_group else "false"
        lines += [
            f"[program:{part.name}]",
            f"command={_command(part.argv)}",
            f"directory={_escaped(str(part.cwd or directory))}",
            *([f"user={part.user}"] if part.user else []),
            f"environment={_environment(part.env)}",
            # Stopped in the opposite order.
            f"priority={priority}",
            "autostart=false",
            f"autorestart={'true' if part.autorestart else 'false'}",
            "startsecs=1",
            # Else one that dies in its first second comes back although it should not.
            f"startretries={5 if part.autorestart else 0}",
            f"stopsignal={part.stop_signal}",
            f"stopwaitsecs={part.stop_wait_s}",
            f"stopasgroup={yes}",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_escaped(str(log_path(directory, part.name)))}",
            f"stdout_logfile_maxbytes={_LOG_BYTES}",
            "stdout_logfile_backups=1",
        ]
    return "\n".join(lines) + "\n"


def launch(directory: Path, identity: str, config: Path) -> subprocess.Popen[bytes]:
    """supervisord in a session of its own: Ctrl-C reaches the runner alone, which stops in order."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    output = log_path(directory, "supervisord-output")
    with output.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(config), "--nodaemon"],
            cwd=directory,
            env={**kept, "PATH": search_path(), MARKER: identity, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Supervisor:
    """The calls that the runner makes; every one raises OSError when supervisord is not there."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def _call(self, method: str, *arguments: object) -> Any:
        """One connection for each call: the transport cannot be used again after an error."""
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            # The host name is not used: the transport connects to the socket.
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except (http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ConnectionError(f"supervisord does not answer: {error!r}") from error
        finally:
            transport.close()

    def answers(self) -> bool:
        with contextlib.suppress(OSError, xmlrpc.client.Error):
            return bool(self._call("getState")["statename"] == "RUNNING")
        return False

    def start(self, name: str) -> None:
        """Returns at once; a program that cannot be executed shows as a state."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" in fault.faultString:
                # One that was killed: supervisord itself was a moment earlier.
                return
            raise StackError(f"supervisord cannot start {name}: {fault.faultString}") from fault

    def stop(self, name: str) -> None:
        """Returns when it has ended; nothing happens when it does not run."""
        try:
            self._call("stopProcess", name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise StackError(f"supervisord cannot stop {name}: {fault.faultString}") from fault

    def shutdown(self) -> None:
        with contextlib.suppress(OSError, xmlrpc.client.Error):
            self._call("shutdown")

    def states(self) -> dict[str, tuple[str, int, str]]:
        """For each program: the state's name, the pid (0 when none), and supervisord's words on it."""
        return {
            info["name"]: (str(info["statename"]), int(info["pid"]), str(info["spawnerr"] or info["description"]))
            for info in self._call("getAllProcessInfo")
        }

    def wait_answering(self, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        return wait_until(lambda: process.poll() is not None or self.answers(), timeout_s) and self.answers()


STARTING = frozenset({"STARTING", "RUNNING"})
