"""What the contract tests need beside the engine itself: to look behind its back, once per kind of engine."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from apps.hosts.engines import builder
from apps.hosts.engines.base import CommandResult, ContainerSpec, EngineAddress, ImageRef, Limits
from apps.hosts.engines.connect import HostEngine, connect
from apps.hosts.engines.memory import FLEET, RUNS, Behaviour, Failure, MemoryHost
from tests.contract.dockerd import Dockerd

_NUMBERS = itertools.count(1)


class Harness(ABC):
    """One engine under test."""

    address: EngineAddress
    unreachable: EngineAddress
    host_ip: str
    good_token = ""

    def __init__(self) -> None:
        self._open: list[HostEngine] = []

    def engine(self, address: EngineAddress | None = None) -> HostEngine:
        engine = connect(address or self.address)
        self._open.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._open:
            engine.close()
        self.clear()

    def spec(self, kind: str = "runs", **other: Any) -> ContainerSpec:
        number = next(_NUMBERS)
        spec = ContainerSpec(
            platform="test",
            tenant="acme",
            app="shop",
            release=1,
            instance=f"i{number}",
            image=self.image(kind),
            container_port=8080,
            host_ip=self.host_ip,
            host_port=20000 + number,
            limits=Limits(memory_mb=64, cpu_millis=250, pids=64, nofile=1024),
        )
        return replace(spec, **other)

    @abstractmethod
    def image(self, kind: str) -> ImageRef:
        """``runs``, ``exits`` (with 3, after the lines "first" and "last"), ``refuses``, or ``private``."""

    @abstractmethod
    def create_only(self, spec: ContainerSpec) -> str:
        """What a worker leaves that is killed between create and start. Returns the container's id."""

    @abstractmethod
    def stranger(self, name: str, labels: dict[str, str]) -> None:
        """A container that somebody made by hand."""

    @abstractmethod
    def foreign_port(self) -> tuple[str, int]: ...

    @abstractmethod
    def environment(self, spec: ContainerSpec) -> dict[str, str]: ...

    @abstractmethod
    def processes(self, spec: ContainerSpec, name: str) -> int:
        """How many processes of this name run in the container."""

    @abstractmethod
    def kill(self, spec: ContainerSpec) -> None:
        """The container's process ends by SIGKILL."""

    @abstractmethod
    def now(self) -> float:
        """The engine's clock, as events have it."""

    @abstractmethod
    def tag(self, spec: ContainerSpec, name: str) -> None:
        """Somebody gives a name of his own to the spec's image, which was pulled."""

    @abstractmethod
    def networks(self) -> set[str]: ...

    @abstractmethod
    def containers(self) -> set[str]:
        """The ids of all containers, strangers' included."""

    @abstractmethod
    def clear(self) -> None: ...


#: What the contract's commands do in a real container; the engine in memory has to be told.
COMMANDS = {
    ("/bin/busybox", "true"): CommandResult(0),
    ("/bin/busybox", "sh", "-c", "echo out; echo err >&2; exit 3"): CommandResult(3, b"out\nerr\n"),
    ("/bin/busybox", "echo", "$HOME; `id`", "a b"): CommandResult(0, b"$HOME; `id` a b\n"),
    ("/bin/busybox", "sh", "-c", "yes | head -c 100000"): CommandResult(0, b"y\n" * 50000),
    ("/bin/busybox", "sleep", "60"): CommandResult(None),
    ("/no/such/program",): CommandResult(127, b"no such file or directory"),
}


class MemoryHarness(Harness):
    address = EngineAddress("memory", "memory://host-1")
    unreachable = EngineAddress("memory", "memory://nowhere")
    host_ip = "10.0.0.1"
    good_token = "good"

    def __init__(self) -> None:
        super().__init__()
        images = {
            "runs": replace(RUNS, commands=COMMANDS),
            "exits": Behaviour(exit_code=3, output=b"first\nlast\n"),
            "refuses": Behaviour(refuses='exec: "/no/such/command": no such file or directory'),
            "private": Behaviour(tokens=frozenset({"good"})),
        }
        self._digests = {kind: f"sha256:{at:064x}" for at, kind in enumerate(images)}
        self.host = FLEET.add(
            MemoryHost(self.address.url, images={self._digests[kind]: one for kind, one in images.items()})
        )

    def image(self, kind: str) -> ImageRef:
        return ImageRef("registry.test", f"team/{kind}", self._digests[kind])

    def create_only(self, spec: ContainerSpec) -> str:
        return self.host.create(spec).observed.container_id

    def stranger(self, name: str, labels: dict[str, str]) -> None:
        self.host.foreign_names.add(name)

    def foreign_port(self) -> tuple[str, int]:
        self.host.foreign_ports.add((self.host_ip, 5000))
        return self.host_ip, 5000

    def environment(self, spec: ContainerSpec) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.host.containers[spec.name].body["Env"])

    def processes(self, spec: ContainerSpec, name: str) -> int:
        return 0

    def kill(self, spec: ContainerSpec) -> None:
        self.host.crash(spec.name, 137)

    def now(self) -> float:
        return float(self.host.spoken)

    def tag(self, spec: ContainerSpec, name: str) -> None:
        self.host.tagged[name] = str(spec.image)

    def networks(self) -> set[str]:
        return {f"berth-{platform}-{tenant}" for platform, tenant in self.host.networks}

    def containers(self) -> set[str]:
        return {one.observed.container_id for one in self.host.containers.values()}

    def clear(self) -> None:
        FLEET.clear()

    def lose_answer(self, verb: str) -> None:
        self.host.fail_next(verb, Failure.AFTER)


class DockerHarness(Harness):
    def __init__(self, dockerd: Dockerd) -> None:
        super().__init__()
        self.dockerd = dockerd
        self.address = EngineAddress("docker", dockerd.url, dockerd.authority.client())
        self.unreachable = EngineAddress("docker", f"https://{dockerd.ip}:1", dockerd.authority.client())
        self.host_ip = dockerd.ip
        self.good_token = dockerd.token("pull")

    def image(self, kind: str) -> ImageRef:
        if kind == "private":
            return self.dockerd.image("runs", "127.0.0.1:5001")
        return self.dockerd.image(kind)

    def create_only(self, spec: ContainerSpec) -> str:
        api = self.dockerd.api
        api.pull(f"{spec.image.registry}/{spec.image.repository}", tag=spec.image.digest, auth_config={})
        network = builder.network_name(spec)
        if network not in self.networks():
            api.create_network(network, labels=builder.network_labels(spec))
        return api.create_container_from_config(builder.build(spec), spec.name)["Id"]

    def stranger(self, name: str, labels: dict[str, str]) -> None:
        image = self.image("runs")
        self.dockerd.api.pull(f"{image.registry}/{image.repository}", tag=image.digest, auth_config={})
        body = {"Image": str(image), "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
        self.dockerd.api.create_container_from_config(body, name)

    def foreign_port(self) -> tuple[str, int]:
        return "127.0.0.1", 5000  # the registry listens there

    def environment(self, spec: ContainerSpec) -> dict[str, str]:
        status, output = self.dockerd.exec(spec.name, "cat", "/proc/1/environ")
        assert status == 0
        return dict(pair.split("=", 1) for pair in output.decode().split("\0") if pair)

    def processes(self, spec: ContainerSpec, name: str) -> int:
        found = self.dockerd.api.top(spec.name)
        return sum(name in " ".join(row) for row in found["Processes"])

    def kill(self, spec: ContainerSpec) -> None:
        self.dockerd.api.kill(spec.name)
        self.dockerd.api.wait(spec.name)

    def now(self) -> float:
        return time.time()  # it runs on this machine

    def tag(self, spec: ContainerSpec, name: str) -> None:
        repository, _, tag = name.partition(":")
        assert self.dockerd.api.tag(str(spec.image), repository, tag)

    def networks(self) -> set[str]:
        return {network["Name"] for network in self.dockerd.api.networks(filters={"type": "custom"})}

    def containers(self) -> set[str]:
        return {container["Id"] for container in self.dockerd.api.containers(all=True)}

    def clear(self) -> None:
        self.dockerd.clear()
        self.dockerd.forget_images()
