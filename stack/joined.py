"""A machine that joins the platform as an admin makes it join: the portal's script, then dockerd as that says.

The machine is namespaces on this one, as in stack/hosts.py; where a real one has systemd, its dockerd is started again
whenever it ends. Needs root.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from stack import processes
from stack.environment import Environment
from stack.hosts import API_PORT, dockerd, dockerd_pid, machine
from stack.network import HostNetwork

#: Stands for Restart=always.
_AGAIN = 'while :; do "$@" || :; sleep 0.1; done'


class JoinedHost:
    """One machine. ``index`` is its own among those of the network; ``name`` is what it joins as."""

    def __init__(self, env: Environment, network: HostNetwork, index: int, name: str) -> None:
        self.env = env
        self.network = network
        self.index = index
        self.name = name
        self.address = network.address(index)
        self.directory = env.directory / "hosts" / name
        self.socket = env.socket_path(f"docker-{index}.sock")
        self._process: subprocess.Popen[bytes] | None = None
        (self.directory / "etc-docker").mkdir(parents=True, exist_ok=True)
        network.ensure_host(index)

    @property
    def state(self) -> Path:
        """Its /etc/berth/host."""
        return self.directory / "berth"

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def url(self) -> str:
        return f"https://{self.address}:{API_PORT}"

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the machine's network, with what stands for its /etc."""
        return subprocess.run(
            [*self.network.enter(self.index), *argv],
            env={**os.environ, **self._environment(), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def join(self, command: str) -> subprocess.CompletedProcess[str]:
        """The command that the platform showed, with the options that a machine without systemd needs."""
        options = f" -s -- --no-service --address {self.address} --name {self.name} --label disk=ssd"
        return self.run("sh", "-c", command + options)

    def report(self) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.state / "berth-host"), "report", "--once")

    def start(self, flags: str) -> None:
        """dockerd with what the script printed."""
        self.socket.unlink(missing_ok=True)
        cgroup = f"/berth-{self.env.id}-{self.index}"
        argv = [
            *machine(self.network, self.index, self.directory, self.directory / "etc-docker"),
            *("sh", "-c", _AGAIN, "sh"),
            *dockerd(self.directory, self.socket, cgroup),
            *shlex.split(flags),
        ]
        with (self.directory / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, env={**os.environ, **self._environment()}, stdout=log, stderr=log, cwd=self.directory
            )

    def stop(self) -> None:
        """Pulls the plug: everything in the machine's namespaces ends with its first process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def dockerd_pid(self) -> int:
        """The pid of dockerd in this machine's count; StackError when it does not run."""
        return dockerd_pid(self.network, self.directory)

    def _environment(self) -> dict[str, str]:
        return {
            # A run that is killed leaves processes that are found by it.
            processes.MARKER: self.env.id,
            "BERTH_DIR": str(self.state),
            "BERTH_DOCKER_ETC": str(self.directory / "etc-docker"),
            "BERTH_DATA_ROOT": str(self.directory / "data"),
        }
