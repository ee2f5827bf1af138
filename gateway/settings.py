"""The gateway's settings, read from the environment once and validated; nothing else reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet
from redis import Redis

from gateway import contract

# HAProxy needs two descriptors for each connection, and some for listeners, checks and its own sockets.
RESERVED_DESCRIPTORS = 1024
MOST_CONNECTIONS = 50_000
MOST_TCP_PORTS = 10_000

_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/+@~-]*")
_ZOOKEEPER = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
_TRUE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


class SettingsError(ValueError):
    """A setting is missing or not usable; the text names the variable and says what is expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All times are in seconds. ``zookeeper_credential`` is ``user:password`` and is never shown.

    ``tcp_ports``: first and last of those for apps of TCP.
    ``https_bind``: none where it is None; then certificates are of no use, and not kept.
    ``certificate_keys``: Fernet's, that private keys come encrypted with; never shown.
    ``access_log_redis``: where lines of the access log go; without it there is none. It has a password in it. At most
    ``access_log_rate`` lines a second, and the stream holds about ``access_log_length``.
    ``stats_advertise``: where the platform reads counters, ``IP:port``; empty where it cannot.
    """

    gateway_id: str
    directory: Path
    zookeeper: str
    zookeeper_credential: str = field(repr=False)
    http_bind: contract.Address
    status_bind: contract.Address
    log_bind: contract.Address
    stats_advertise: str
    haproxy: Path
    threads: int
    max_connections: int
    spare_slots: int = 16
    session_seconds: float = 10.0
    resync_seconds: float = 30.0
    epoch_grace_seconds: float = 30.0
    drain_seconds: float = 30.0
    stop_seconds: float = 2.0
    keep_haproxy: bool = False
    tcp_ports: tuple[int, int] | None = None
    https_bind: contract.Address | None = None
    tls_passthrough: bool = False
    certificate_keys: tuple[str, ...] = field(default=(), repr=False)
    access_log_redis: str = field(default="", repr=False)
    access_log_rate: int = 1000
    access_log_length: int = 100_000

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Raises SettingsError for the first variable that is missing or wrong."""
        read = _Reader(environ)
        https_bind = read.address("BERTH_GATEWAY_HTTPS_BIND") if read.given("BERTH_GATEWAY_HTTPS_BIND") else None
        return cls(
            gateway_id=read.gateway_id("BERTH_GATEWAY_ID"),
            directory=read.directory("BERTH_GATEWAY_DIR"),
            zookeeper=read.zookeeper("BERTH_ZOOKEEPER"),
            zookeeper_credential=read.credential("BERTH_ZOOKEEPER_GATEWAY"),
            http_bind=read.address("BERTH_GATEWAY_HTTP_BIND"),
            status_bind=(status_bind := read.address("BERTH_GATEWAY_STATUS_BIND")),
            log_bind=read.loopback("BERTH_GATEWAY_LOG_BIND", "127.0.0.1:9514"),
            stats_advertise=read.advertised("BERTH_GATEWAY_STATS_ADVERTISE", status_bind),
            haproxy=read.binary("BERTH_GATEWAY_HAPROXY", "haproxy"),
            threads=int(read.number("BERTH_GATEWAY_THREADS", os.cpu_count() or 1, 1, 64)),
            max_connections=int(read.number("BERTH_GATEWAY_MAX_CONNECTIONS", _fitting_connections(), 100, 1_000_000)),
            spare_slots=int(read.number("BERTH_GATEWAY_SPARE_SLOTS", 16, 1, 100_000)),
            session_seconds=read.number("BERTH_GATEWAY_SESSION_SECONDS", 10, 1, 120),
            resync_seconds=read.number("BERTH_GATEWAY_RESYNC_SECONDS", 30, 1, 3600),
            epoch_grace_seconds=read.number("BERTH_GATEWAY_EPOCH_GRACE_SECONDS", 30, 0, 3600),
            drain_seconds=read.number("BERTH_GATEWAY_DRAIN_SECONDS", 30, 0, 3600),
            stop_seconds=read.number("BERTH_GATEWAY_STOP_SECONDS", 2, 0, 600),
            keep_haproxy=read.flag("BERTH_GATEWAY_KEEP_HAPROXY"),
            tcp_ports=read.ports("BERTH_GATEWAY_TCP_PORTS"),
            https_bind=https_bind,
            tls_passthrough=read.flag("BERTH_GATEWAY_TLS_PASSTHROUGH"),
            certificate_keys=read.keys("BERTH_GATEWAY_CERTIFICATE_KEY", required=https_bind is not None),
            access_log_redis=read.redis("BERTH_GATEWAY_ACCESS_LOG_REDIS"),
            access_log_rate=int(read.number("BERTH_GATEWAY_ACCESS_LOG_RATE", 1000, 1, 20_000)),
            access_log_length=int(read.number("BERTH_GATEWAY_ACCESS_LOG_LENGTH", 100_000, 1000, 10_000_000)),
        )


@dataclass(frozen=True, slots=True)
class _Reader:
    environ: Mapping[str, str]

    def text(self, name: str) -> str:
        value = self.environ.get(name, "").strip()
        if not value:
            raise SettingsError(f"{name} is required")
        return value

    def given(self, name: str) -> bool:
        return bool(self.environ.get(name, "").strip())

    def keys(self, name: str, *, required: bool) -> tuple[str, ...]:
        found = tuple(one.strip() for one in self.environ.get(name, "").split(",") if one.strip())
        try:
            for one in found:
                Fernet(one)
        except ValueError:
            raise SettingsError(f"{name}: Fernet keys are expected, with commas between them") from None
        if required and not found:
            raise SettingsError(
                f"{name} is required beside BERTH_GATEWAY_HTTPS_BIND: private keys come encrypted by it"
            )
        return found

    def gateway_id(self, name: str) -> str:
        try:
            return contract.gateway_id(self.text(name))
        except contract.ContractError:
            raise SettingsError(f"{name}: 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit") from None

    def directory(self, name: str) -> Path:
        value = self.text(name)
        if not _SAFE_PATH.fullmatch(value) or ".." in value.split("/"):
            raise SettingsError(f"{name}: an absolute path of letters, digits and . _ / + @ ~ - is expected")
        return Path(value)

    def zookeeper(self, name: str) -> str:
        value = self.text(name)
        if not all(_ZOOKEEPER.fullmatch(part) for part in value.split(",")):
            raise SettingsError(f"{name}: host:port[,host:port...] is expected")
        return value

    def credential(self, name: str) -> str:
        value = self.text(name)
        user, _, password = value.partition(":")
        if not user or len(password) < 8:
            raise SettingsError(f"{name}: user:password is expected, the password of at least 8 characters")
        return value

    def address(self, name: str) -> contract.Address:
        try:
            return contract.Address.parse(self.text(name))
        except contract.ContractError:
            raise SettingsError(f"{name}: IP:port is expected, e.g. 127.0.0.1:8080 or [::]:8080") from None

    def loopback(self, name: str, default: str) -> contract.Address:
        """Whoever reaches that port could count what never happened."""
        try:
            address = contract.Address.parse(self.environ.get(name, "").strip() or default)
        except contract.ContractError:
            address = None
        if address is None or not ipaddress.ip_address(address.host).is_loopback:
            raise SettingsError(f"{name}: an IP:port of this machine alone is expected, e.g. {default}")
        return address

    def advertised(self, name: str, default: contract.Address) -> str:
        if not self.environ.get(name, "").strip():
            return "" if ipaddress.ip_address(default.host).is_unspecified else str(default)
        address = self.address(name)
        if ipaddress.ip_address(address.host).is_unspecified:
            raise SettingsError(f"{name}: an address that the platform can connect to is expected")
        return str(address)

    def binary(self, name: str, default: str) -> Path:
        value = self.environ.get(name, "").strip() or default
        # Debian keeps haproxy in /usr/sbin, which is not on everybody's PATH.
        found = shutil.which(value) or shutil.which(value, path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise SettingsError(f"{name}: no executable {value!r}")
        return Path(found)

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.environ.get(name, "").strip()
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            raise SettingsError(f"{name}: a number is expected") from None
        if not least <= number <= most:
            raise SettingsError(f"{name}: a number from {least:g} to {most:g} is expected")
        return number

    def ports(self, name: str) -> tuple[int, int] | None:
        value = self.environ.get(name, "").strip()
        if not value:
            return None
        found = re.fullmatch(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})", value)
        first, last = (int(found[1]), int(found[2])) if found else (1, 0)
        if not first <= last <= 65535 or last - first >= MOST_TCP_PORTS:
            raise SettingsError(f"{name}: FIRST-LAST is expected, e.g. 20000-20099, {MOST_TCP_PORTS} ports at most")
        return first, last

    def redis(self, name: str) -> str:
        value = self.environ.get(name, "").strip()
        try:
            # Its pool's client connects with the first command.
            Redis.from_url(value or "redis://x").close()
        except (ValueError, TypeError):
            raise SettingsError(f"{name}: redis://[user:password@]host:port/number is expected") from None
        return value

    def flag(self, name: str) -> bool:
        try:
            return _TRUE[self.environ.get(name, "").strip().lower()]
        except KeyError:
            raise SettingsError(f"{name}: 1 or 0 is expected") from None


def _fitting_connections() -> int:
    """As many connections as the hard descriptor limit allows: HAProxy refuses to start with more."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(100, min(MOST_CONNECTIONS, (hard - RESERVED_DESCRIPTORS) // 2))
