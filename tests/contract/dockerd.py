"""A dockerd and two registries of our own, in a network namespace of their own.

The namespace keeps this dockerd's iptables chains away from any other dockerd's (each flushes the shared DOCKER
chains when it starts), and takes rules, bridges and addresses with it when it goes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from docker import APIClient

from apps.hosts.engines.base import ImageRef
from tests.contract.pki import Authority, token_issuer

PACKAGES = {
    "dockerd": "docker.io",
    "docker-registry": "docker-registry",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "iptables": "iptables",
}
REGISTRY, TOKEN_REGISTRY = "127.0.0.1:5000", "127.0.0.1:5001"
IMAGES = {
    "runs": ["/bin/busybox", "sh", "-c", "exec /bin/busybox httpd -f -p $PORT -h /"],
    "exits": ["/bin/busybox", "sh", "-c", "echo first; echo last; exit 3"],
    "refuses": ["/no/such/command"],
}


def eventually(check: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true answer; fails when the deadline passes."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {check}"
        threading.Event().wait(0.05)
    return answer


class Dockerd:
    """Start it once, use it, and ``stop`` it whatever happened; ``stop`` leaves nothing or says what it left."""

    def __init__(self, root: Path) -> None:
        missing = sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)})
        assert not missing, f"these tests need the real parts: apt-get install {' '.join(missing)}"
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        self.authority = Authority()
        self.issuer = token_issuer()
        self.digests: dict[str, str] = {}
        number = os.getpid() % 8192
        self.namespace = f"berth-ct-{os.getpid()}"
        self._link = f"bct{os.getpid()}"
        first = f"10.{230 + number // 4096}.{number // 32 % 128}"
        base = number % 32 * 8
        self._near, self.ip, self.unnamed_ip = (f"{first}.{base + at}" for at in (1, 2, 3))
        self.socket = f"unix://{root}/docker.sock"
        self.url = f"https://{self.ip}:2376"

    def start(self) -> None:
        self._make_namespace()
        cert, key = self.authority.server(self.ip)
        for name, text in (("ca", self.authority.pem), ("cert", cert), ("key", key)):
            (self.root / name).write_text(text)
        # Without its own file dockerd reads /etc/docker/daemon.json and writes /etc/docker/key.json.
        config = {"deprecated-key-path": str(self.root / "key.json")}
        (self.root / "daemon.json").write_text(json.dumps(config))
        self._spawn(
            "dockerd",
            *("--config-file", self.root / "daemon.json"),
            *("--data-root", self.root / "data", "--exec-root", self.root / "exec"),
            *("--pidfile", self.root / "docker.pid", "-H", self.socket, "-H", f"tcp://0.0.0.0:{2376}"),
            *("--tlsverify", "--tlscacert", self.root / "ca", "--tlscert", self.root / "cert"),
            *("--tlskey", self.root / "key", "--bridge", "none"),
            # With the userland proxy one tenant reaches another's published port on the same host, past the bridges.
            "--userland-proxy=false",
            *("--default-address-pool", "base=10.240.0.0/16,size=24", "--label", "zone=test"),
        )
        self._registry("open", REGISTRY, {})
        (self.root / "issuer.pem").write_text(self.issuer.certificate)
        token = {"realm": "http://127.0.0.1:1/", "service": "berth", "issuer": "berth"}
        token["rootcertbundle"] = str(self.root / "issuer.pem")
        self._registry("token", TOKEN_REGISTRY, {"auth": {"token": token}})
        eventually((self.root / "docker.sock").exists)
        self.api = APIClient(self.socket, version="1.41", timeout=60)
        eventually(self._answers)
        for kind, command in IMAGES.items():
            self.digests[kind] = self._publish(kind, command)

    def image(self, kind: str, registry: str = REGISTRY) -> ImageRef:
        return ImageRef(registry, f"team/{kind}", self.digests[kind])

    def token(self, *actions: str, repository: str = "team/runs", ttl_s: int = 300) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {"iss": "berth", "aud": "berth", "sub": "host", "jti": "1"}
        claims |= {"iat": now - 600, "nbf": now - 600, "exp": now + ttl_s}
        claims["access"] = [{"type": "repository", "name": repository, "actions": list(actions)}]
        return jwt.encode(claims, self.issuer.key, "RS256", headers={"kid": self.issuer.kid})

    def exec(self, container: str, *command: str) -> tuple[int, bytes]:
        made = self.api.exec_create(container, ["/bin/busybox", *command])
        output = self.api.exec_start(made["Id"])
        return self.api.exec_inspect(made["Id"])["ExitCode"], output

    def clear(self) -> None:
        """Back to a dockerd without containers and networks; images stay."""
        for container in self.api.containers(all=True):
            self.api.remove_container(container["Id"], force=True, v=True)
        for network in self.api.networks(filters={"type": "custom"}):
            self.api.remove_network(network["Id"])

    def forget_images(self) -> None:
        for image in self.api.images(quiet=True):
            self.api.remove_image(image, force=True)

    def stop(self) -> None:
        if hasattr(self, "api"):
            try:
                self.clear()
            finally:
                self.api.close()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        for pid in self._left_behind():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self._left_behind())
        for mount in self._mounts():
            subprocess.run(["umount", "--lazy", mount], check=True)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        shutil.rmtree(self.root)
        assert not self._mounts()

    def _make_namespace(self) -> None:
        inside = ["-n", self.namespace]
        for command in (
            ["netns", "add", self.namespace],
            ["link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace],
            ["addr", "add", f"{self._near}/29", "dev", self._link],
            ["link", "set", self._link, "up"],
            [*inside, "addr", "add", f"{self.ip}/29", "dev", "eth0"],
            [*inside, "addr", "add", f"{self.unnamed_ip}/29", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", *command], check=True)

    def _spawn(self, *command: object) -> None:
        log = (self.root / f"{command[0]}-{len(self.processes)}.log").open("wb")
        # Should we be killed, the kernel asks it to end: no dockerd outlives its tests.
        wrapped = ["setpriv", "--pdeathsig", "TERM", "nsenter", f"--net=/run/netns/{self.namespace}"]
        args = [*wrapped, *map(str, command)]
        nothing = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(args, stdin=nothing, stdout=log, stderr=log, start_new_session=True))
        log.close()

    def _registry(self, name: str, address: str, more: dict[str, Any]) -> None:
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.root / name)}},
            "http": {"addr": address, "secret": "of a test"},
            **more,
        }
        path = self.root / f"{name}.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        self._spawn("docker-registry", "serve", path)

    def _answers(self) -> bool:
        for process in self.processes:
            assert process.poll() is None, f"{process.args} ended: see {self.root}"
        try:
            return bool(self.api.ping())
        except OSError:
            return False

    def _publish(self, kind: str, command: list[str]) -> str:
        """Build FROM scratch, push to both registries, and forget the image so that it has to be pulled."""
        dockerfile = f"FROM scratch\nCOPY busybox /bin/busybox\nCMD {json.dumps(command)}\n".encode()
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            tar.add(shutil.which("busybox") or "", "busybox")
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(dockerfile)
            tar.addfile(entry, io.BytesIO(dockerfile))
        context.seek(0)
        name = f"team/{kind}"
        built = list(self.api.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True))
        assert not any("error" in line for line in built), built
        digest = ""
        for registry in (REGISTRY, TOKEN_REGISTRY):
            self.api.tag(name, f"{registry}/{name}", "1")
            auth = {"registrytoken": self.token("pull", "push", repository=name)}
            push = eventually(lambda r=registry, a=auth: self._push(f"{r}/{name}", a))
            digest = next(line["aux"]["Digest"] for line in push if "aux" in line)
        self.forget_images()
        return digest

    def _push(self, repository: str, auth: dict[str, str]) -> list[dict[str, Any]]:
        lines = list(self.api.push(repository, tag="1", stream=True, decode=True, auth_config=auth))
        return [] if any("refused" in str(line.get("error")) for line in lines) else lines

    def _left_behind(self) -> list[int]:
        """Processes that carry our folder in their command line: dockerd, containerd, and shims."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if os.fsencode(self.root) in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [path for line in reversed(lines) if (path := line.split()[4]).startswith(f"{self.root}/")]
