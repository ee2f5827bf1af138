"""One environment: a directory, its generated secrets, ports, subnet and the variables that the parts read."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stack import ports as port_tools
from stack.parts.base import Port, StackError
from stack.pki import Authority, Pair, token_pair, write_private
from stack.processes import marked, stack_id

ROOT = Path(__file__).resolve().parent.parent
REALM_PATH = "/api/registry/token"
NOTIFICATIONS_PATH = "/api/registry/notifications"
REGISTRY_SERVICE = "berth-registry"
REGISTRY_ISSUER = "berth"
# A Unix socket's address holds 107 bytes and a null (unix(7)).
_LONGEST_SOCKET = 100
_SETTINGS = {"demo": "portal.settings.dev", "test": "portal.settings.test"}


def root_directory() -> Path:
    """Where environments live: BERTH_VAR_ROOT, or var/ in the checkout."""
    return Path(os.environ.get("BERTH_VAR_ROOT") or ROOT / "var")


@dataclass(frozen=True)
class Environment:
    """``kind`` is "demo" (fixed ports, SQLite) or "test" (free ports, PostgreSQL); ``extra`` adds variables.

    ``tcp_ports``: first and last of the gateway's for apps of TCP.
    """

    directory: Path
    kind: str
    ports: Mapping[str, int]
    tcp_ports: tuple[int, int]
    subnet: ipaddress.IPv4Network
    secrets: Mapping[str, str] = field(repr=False)
    extra: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: Path, kind: str = "test") -> Environment:
        """Creates the directory, secrets, ports and subnet at the first call, and finds them again later."""
        if kind not in _SETTINGS:
            raise StackError(f"unknown kind of environment {kind!r}: give one of {', '.join(_SETTINGS)}")
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise StackError(
                f"{directory} belongs to uid {directory.stat().st_uid}: an earlier run as another user made it. "
                f"Run as that user (for root: sudo), or choose another place with BERTH_VAR_ROOT."
            )
        # Others may pass through, as PostgreSQL's user must, but not list.
        directory.chmod(0o700 if kind == "demo" else 0o711)
        layout = directory / "layout.json"
        held = json.loads(layout.read_text()) if layout.exists() else {}
        ports = _ports(directory, kind, held.get("ports", {}))
        tcp_ports = _tcp_ports(directory, kind, held.get("tcp_ports"), ports)
        subnet = _subnet(directory, held.get("subnet", ""))
        found = {"ports": ports, "tcp_ports": list(tcp_ports), "subnet": str(subnet)}
        if found != held:
            layout.write_text(json.dumps(found, indent=2) + "\n")
        return cls(directory, kind, ports, tcp_ports, subnet, _secrets(directory / "secrets.json"))

    @property
    def id(self) -> str:
        """Names this environment's network devices, containers and processes."""
        return stack_id(self.directory)

    @property
    def bridge_address(self) -> str:
        """This machine as the Docker hosts see it."""
        return str(self.subnet.network_address + 1)

    @property
    def registry_public(self) -> str:
        """host:port of the registry for whoever pushes or pulls, whichever host the engine is on."""
        host = "localhost" if self.kind == "demo" else self.bridge_address
        return f"{host}:{self.ports['registry']}"

    @property
    def portal_url(self) -> str:
        return f"http://localhost:{self.ports['portal']}"

    @property
    def registry_authority(self) -> Authority:
        return Authority(self.directory / "pki" / "registry-ca", "registry")

    @property
    def hosts_authority(self) -> Authority:
        return Authority(self.directory / "pki" / "hosts-ca", "hosts")

    @property
    def token_pair(self) -> Pair:
        pki = self.directory / "pki"
        pki.mkdir(exist_ok=True)
        return token_pair(Pair(pki / "token.pem", pki / "token.key"))

    @property
    def registry_pair(self) -> Pair:
        pki = self.directory / "pki"
        names = ["localhost", "127.0.0.1", self.bridge_address]
        return self.registry_authority.server(Pair(pki / "registry.pem", pki / "registry.key"), names)

    @property
    def client_pair(self) -> Pair:
        pki = self.directory / "pki"
        return self.hosts_authority.client(Pair(pki / "client.pem", pki / "client.key"), "berth")

    def part_directory(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def socket_path(self, name: str) -> Path:
        """A path that is short enough for a Unix socket, however long the environment's own is."""
        path = short_path(self.directory, self.id, name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.parent.stat()
        if status.st_uid != os.geteuid():
            raise StackError(f"{path.parent} belongs to uid {status.st_uid}, not to you: remove it")
        return path

    def port(self, name: str, wanted_by: str) -> Port:
        return Port(self.ports[name], wanted_by, port_tools.variable(name))

    def database_url(self) -> str:
        if self.kind == "demo":
            return os.environ.get("DATABASE_URL") or f"sqlite:///{self.directory / 'berth.sqlite3'}"
        password = self.secrets["postgres_password"]
        return f"postgres://berth:{password}@127.0.0.1:{self.ports['postgres']}/berth"

    def variables(self) -> dict[str, str]:
        """What the portal, the workers, the gateway and the tests read. Secrets included: never print it whole."""
        ports, secret = self.ports, self.secrets
        token = self.token_pair
        return {
            "DJANGO_SETTINGS_MODULE": _SETTINGS[self.kind],
            "BERTH_SECRET_KEY": secret["secret_key"],
            "BERTH_ENCRYPTION_KEYS": secret["encryption_key"],
            "DATABASE_URL": self.database_url(),
            "BERTH_REDIS_URL": f"redis://:{secret['redis_password']}@127.0.0.1:{ports['redis']}/0",
            # A database of its own: what is flushed there is no nudge.
            "BERTH_ACCESS_LOG_REDIS": (log := f"redis://:{secret['redis_password']}@127.0.0.1:{ports['redis']}/1"),
            "BERTH_GATEWAY_ACCESS_LOG_REDIS": log,
            "BERTH_ZOOKEEPER": f"127.0.0.1:{ports['zookeeper']}",
            "BERTH_ZOOKEEPER_PUBLISHER": f"publisher:{secret['zookeeper_publisher']}",
            "BERTH_ZOOKEEPER_GATEWAY": f"gateway:{secret['zookeeper_gateway']}",
            "BERTH_PLATFORM_ID": self.id,
            "BERTH_PLATFORM_DOMAIN": "localhost",
            "BERTH_PORTAL_URL": self.portal_url,
            "BERTH_GATEWAY_URL_PORT": str(ports["gateway"]),
            "BERTH_REGISTRY_PUBLIC": self.registry_public,
            "BERTH_REGISTRY_URL": f"https://127.0.0.1:{ports['registry']}",
            "BERTH_REGISTRY_CA": str(self.registry_authority.pair.cert),
            "BERTH_REGISTRY_SERVICE": REGISTRY_SERVICE,
            "BERTH_REGISTRY_ISSUER": REGISTRY_ISSUER,
            "BERTH_REGISTRY_TOKEN_KEY": str(token.key),
            "BERTH_REGISTRY_TOKEN_CERT": str(token.cert),
            "BERTH_REGISTRY_NOTIFICATION_SECRET": secret["registry_notifications"],
            "BERTH_GATEWAY_ID": f"gateway-{self.id}",
            "BERTH_GATEWAY_DIR": str(self.part_directory("gateway")),
            "BERTH_GATEWAY_HTTP_BIND": f"127.0.0.1:{ports['gateway']}",
            "BERTH_GATEWAY_STATUS_BIND": f"127.0.0.1:{ports['gateway_status']}",
            "BERTH_GATEWAY_LOG_BIND": f"127.0.0.1:{ports['gateway_log']}",
            "BERTH_GATEWAY_TCP_PORTS": "{}-{}".format(*self.tcp_ports),
            "BERTH_VAR": str(self.directory),
            **self.extra,
        }


def short_path(directory: Path, identity: str, name: str) -> Path:
    """In run/ of the directory, or in the temporary directory where that would be too long for a socket."""
    path = directory / "run" / name
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        return Path(tempfile.gettempdir()) / f"berth-{identity}" / name
    return path


def _secrets(path: Path) -> Mapping[str, str]:
    """Missing ones are added, so that a directory of an older version goes on working."""
    held: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    names = (
        "secret_key",
        "redis_password",
        "postgres_password",
        "zookeeper_publisher",
        "zookeeper_gateway",
        "registry_notifications",
        "registry_http",
    )
    missing = [name for name in names if name not in held]
    for name in missing:
        held[name] = secrets.token_hex(32)
    if "encryption_key" not in held:
        missing.append("encryption_key")
        # A Fernet key: 32 bytes in URL-safe base64 (cryptography, "Fernet").
        held["encryption_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if missing:
        write_private(path, (json.dumps(held, indent=2) + "\n").encode())
    return held


def _ports(directory: Path, kind: str, held: Mapping[str, int]) -> dict[str, int]:
    chosen = {name: port_tools.from_environment(name) for name in port_tools.DEFAULTS}
    forced = {name: number for name, number in chosen.items() if number is not None}
    if kind == "demo":
        return {**port_tools.DEFAULTS, **forced}
    # Kept while a stack runs there, and as long as they are free; "chosen once per run" needs no more.
    complete = set(held) >= set(port_tools.DEFAULTS)
    if complete and (marked(stack_id(directory)) or all(map(port_tools.is_free, held.values()))):
        return {**held, **forced}
    return {**port_tools.choose_free(port_tools.DEFAULTS), **forced}


def _tcp_ports(directory: Path, kind: str, held: Sequence[int] | None, others: Mapping[str, int]) -> tuple[int, int]:
    if kind == "demo":
        return port_tools.demo_block()
    if held:
        first, last = held
        numbers = range(first, last + 1)
        fits = set(numbers).isdisjoint(others.values())
        if fits and (marked(stack_id(directory)) or all(map(port_tools.is_free, numbers))):
            return first, last
    return port_tools.block(others.values())


def _subnet(directory: Path, held: str) -> ipaddress.IPv4Network:
    """A /24 of 10.88.0.0/16 that no other network device of this machine routes to."""
    bridge = f"bt{stack_id(directory)}"
    taken = _routed_elsewhere(bridge)
    if held:
        network = ipaddress.IPv4Network(held)
        if not any(map(network.overlaps, taken)):
            return network
    start = int.from_bytes(hashlib.sha256(bridge.encode()).digest()[:2])
    for offset in range(256):
        network = ipaddress.IPv4Network(f"10.88.{(start + offset) % 256}.0/24")
        if not any(map(network.overlaps, taken)):
            return network
    raise StackError("every subnet of 10.88.0.0/16 is in use on this machine (see: ip route)")


def _routed_elsewhere(bridge: str) -> list[ipaddress.IPv4Network]:
    found = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, *rest = line.split()
        address = ipaddress.IPv4Address(int(destination, 16).to_bytes(4, "little"))
        mask = ipaddress.IPv4Address(int(rest[5], 16).to_bytes(4, "little"))
        if device != bridge and int(mask):
            found.append(ipaddress.IPv4Network(f"{address}/{mask}"))
    return found
