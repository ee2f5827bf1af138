"""Docker hosts on one machine: each a dockerd in network, mount and PID namespaces of its own. Needs root.

A host is reached at https://ADDRESS:2376 with mutual TLS, as a host across a network is, and at a Unix socket.
When its first process ends, however it ends, the kernel ends all its containers: no container of a dead dockerd
lives on. Without live-restore a real host's containers end with its dockerd as well.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stack import probes, processes
from stack.environment import Environment
from stack.network import HostNetwork
from stack.parts.base import Need, Part, StackError, is_root, program
from stack.pki import Pair

API_PORT = 2376
_INIT = Path(__file__).with_name("dockerd-init.sh")
_CGROUPFS = "native.cgroupdriver=cgroupfs"
_NEEDS = (
    Need("dockerd", "docker.io"),
    Need("docker-init", "docker.io"),
    Need("containerd", "containerd"),
    Need("iptables", "iptables"),
    Need("ip", "iproute2"),
    Need("nsenter", "util-linux"),
    Need("unshare", "util-linux"),
)


@dataclass(frozen=True)
class HostTLS:
    """Paths of what a client of the host needs; the properties are the PEM texts."""

    ca: Path
    client: Pair

    @property
    def ca_pem(self) -> str:
        return self.ca.read_text()

    @property
    def cert_pem(self) -> str:
        return self.client.cert.read_text()

    @property
    def key_pem(self) -> str:
        return self.client.key.read_text()

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client.cert, self.client.key)
        return context


@dataclass(frozen=True)
class DockerHost:
    """One host. ``part`` is its name in the Stack: stop, start and kill it by that."""

    name: str
    part: str
    index: int
    address: str
    socket: Path
    tls: HostTLS
    directory: Path
    cgroup: str
    network: HostNetwork

    @property
    def url(self) -> str:
        return f"https://{self.address}:{API_PORT}"

    @property
    def docker_host(self) -> str:
        """What DOCKER_HOST takes, for the docker command on this machine."""
        return f"unix://{self.socket}"

    def answers(self) -> bool:
        """Whether the API answers over mutual TLS; false also when it cannot be reached."""
        with contextlib.suppress(OSError):
            return probes.https_status(self.address, API_PORT, "/_ping", self.tls.context()) == 200
        return False

    def dockerd_pid(self) -> int:
        """The pid of dockerd in this machine's count; StackError when it does not run."""
        return dockerd_pid(self.network, self.directory)

    def cut(self) -> None:
        """Pulls the network cable; containers run on, and nobody reaches the host or them."""
        self.network.cut(self.index)

    def restore(self) -> None:
        self.network.restore(self.index)


class DockerHosts:
    """``count`` hosts of an environment, with their parts for a Stack.

    ``egress`` gives them a way to the outside. The registry and the portal of the environment are reached from
    a host at its own localhost and at the bridge's address, at the same ports as here. Containers have
    ``stop_wait_s`` to end when a host is stopped; then the namespace is killed, and they with it.
    """

    def __init__(self, env: Environment, count: int = 1, *, egress: bool = False, stop_wait_s: int = 3) -> None:
        if not 0 < count < 100:
            raise ValueError("between 1 and 99 hosts")
        if not is_root():
            raise StackError(
                "Docker hosts need root, for network namespaces and dockerd: run the same command with sudo."
            )
        ports = [env.ports["portal"], env.ports["registry"]]
        self.env = env
        self._stop_wait_s = stop_wait_s
        self.network = HostNetwork(env.id, env.subnet, local_ports=ports, egress=egress)
        self.hosts = [self._host(index) for index in range(1, count + 1)]
        self.parts = [self._part(host) for host in self.hosts]

    def _host(self, index: int) -> DockerHost:
        directory = self.env.directory / "hosts" / str(index)
        directory.mkdir(parents=True, exist_ok=True)
        return DockerHost(
            name=f"host-{index}",
            part=f"host-{index}",
            index=index,
            address=self.network.address(index),
            socket=self.env.socket_path(f"docker-{index}.sock"),
            tls=HostTLS(self.env.hosts_authority.pair.cert, self.env.client_pair),
            directory=directory,
            cgroup=f"/berth-{self.env.id}-{index}",
            network=self.network,
        )

    def _part(self, host: DockerHost) -> Part:
        directory = host.directory
        pair = Pair(directory / "tls" / "server.pem", directory / "tls" / "server.key")
        etc = directory / "etc-docker"

        def prepare() -> None:
            self.env.hosts_authority.server(pair, [host.address, "127.0.0.1"])
            ca = self.env.registry_authority.pair.cert.read_bytes()
            for name in {self.env.registry_public, f"{self.network.bridge_address}:{self.env.ports['registry']}"}:
                certs = etc / "certs.d" / name
                certs.mkdir(parents=True, exist_ok=True)
                (certs / "ca.crt").write_bytes(ca)
            host.socket.unlink(missing_ok=True)
            self.network.ensure_host(host.index)

        return Part(
            name=host.part,
            argv=self._argv(host, pair, etc),
            ready=lambda: probes.https_status(host.address, API_PORT, "/_ping", host.tls.context()) == 200,
            cwd=directory,
            needs=_NEEDS,
            prepare=prepare,
            # unshare itself ignores SIGTERM while its child runs: the group's other member, docker-init, acts.
            stop_group=True,
            stop_wait_s=self._stop_wait_s,
            start_wait_s=90,
            hint="Kernel modules may be missing: modprobe overlay br_netfilter iptable_nat",
        )

    def _argv(self, host: DockerHost, pair: Pair, etc: Path) -> Sequence[str]:
        return [
            *machine(self.network, host.index, host.directory, etc),
            *dockerd(host.directory, host.socket, host.cgroup),
            *("--host", f"tcp://{host.address}:{API_PORT}"),
            "--tlsverify",
            *("--tlscacert", str(self.env.hosts_authority.pair.cert)),
            *("--tlscert", str(pair.cert)),
            *("--tlskey", str(pair.key)),
            *("--default-address-pool", "base=10.200.0.0/14,size=26"),
            "--live-restore=false",
            # Its proxy would carry a stranger's container on the same host around the walls between tenants.
            "--userland-proxy=false",
        ]


def machine(network: HostNetwork, index: int, directory: Path, etc: Path) -> list[str]:
    """The start of a command that runs as the first process of a machine of its own; ``etc`` is its /etc/docker."""
    enter = [program("nsenter"), *network.enter(index)[1:]]
    isolate = [program("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*enter, *isolate, str(_INIT), str(etc), _resolv_conf(directory)]


def dockerd(directory: Path, socket: Path, cgroup: str) -> list[str]:
    """The engine with what it needs to run beside others on one machine. How it is reached from outside is left out."""
    return [
        program("dockerd"),
        *("--data-root", str(directory / "data")),
        *("--exec-root", "/run/docker"),
        *("--pidfile", "/run/docker/docker.pid"),
        *("--host", f"unix://{socket}"),
        *("--cgroup-parent", cgroup),
        # The systemd driver would hand the containers to the machine's systemd, outside of our cgroup.
        *("--exec-opt", _CGROUPFS),
        *("--storage-driver", "overlay2"),
        *("--log-level", "warn"),
    ]


def dockerd_pid(network: HostNetwork, directory: Path) -> int:
    data_root = str(directory / "data").encode()
    for pid in processes.marked(network.identity):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dockerd") and data_root in words:
                return pid
    raise StackError(f"no dockerd runs in {directory}")


def _resolv_conf(directory: Path) -> str:
    """A resolver that answers from another network namespace: 127.0.0.53 is this machine's only."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    current = Path("/etc/resolv.conf")
    if not (current.exists() and "nameserver 127." in current.read_text() and upstream.exists()):
        return "-"
    copy = directory / "resolv.conf"
    copy.write_bytes(upstream.read_bytes())
    return str(copy)
