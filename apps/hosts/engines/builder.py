"""The one allow-list builder: every container that Berth ever asks an engine for is described here.

Pure: a spec in, the Engine API's JSON out (https://docs.docker.com/engine/api/v1.41/#operation/ContainerCreate).
There is no way to pass a key through. A new option is a new field of ContainerSpec, validated here, and a new
line in the golden set of tests/test_builder.py; so a bind mount or a host namespace cannot arrive by accident.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from apps.hosts.engines.base import ContainerSpec, ImageRef, Limits, SpecRefused

ALLOWED_CAPABILITIES = frozenset({"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"})
"""What a plan may add back. Not NET_RAW (spoofing) nor MKNOD, which Docker's own default keeps."""

ALLOWED_STOP_SIGNALS = frozenset(
    {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL", "SIGRTMIN+3"}
)

LABEL_PLATFORM = "berth.platform"
LABEL_TENANT = "berth.tenant"
LABEL_APP = "berth.app"
LABEL_RELEASE = "berth.release"
LABEL_INSTANCE = "berth.instance"
LABEL_SPEC = "berth.spec"

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOMAIN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REGISTRY = re.compile(rf"{_DOMAIN}(?:\.{_DOMAIN})*(?::[0-9]{{1,5}})?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")

_MIB = 1024 * 1024
_MIN_MEMORY_MB = 6  # below this the Docker Engine refuses
_MAX_MEMORY_MB = 64 * 1024 * 1024
_MAX_CPU_MILLIS = 4_096_000
_MAX_PIDS = 4_194_304  # the kernel's PID_MAX_LIMIT on 64 bits
_MAX_NOFILE = 1_048_576  # fs.nr_open's default: above it runc cannot start the container
_MAX_CPU_SHARES = 262_144  # the kernel's own ceiling
_MAX_STRING = 131_071  # execve(2): MAX_ARG_STRLEN, 32 pages, the closing NUL counted
_MAX_STRINGS = 1_000_000  # execve(2): well under a quarter of the default 8 MiB stack
_MAX_REPOSITORY = 255


def only_by_digest(reference: str) -> None:
    """Raises SpecRefused unless it is an image by its digest, as an ImageRef is written: a tag is somebody else's."""
    registry, _, rest = reference.partition("/")
    repository, _, digest = rest.partition("@")
    if not (_REGISTRY.fullmatch(registry) and _REPOSITORY.fullmatch(repository) and _DIGEST.fullmatch(digest)):
        raise SpecRefused("only an image that was pulled by its digest can be removed")


def network_name(spec: ContainerSpec) -> str:
    """The bridge that only this tenant's containers are on."""
    return f"berth-{spec.platform}-{spec.tenant}"


def network_labels(spec: ContainerSpec) -> dict[str, str]:
    """By these, and not by its name, a network is known to be ours."""
    return {LABEL_PLATFORM: spec.platform, LABEL_TENANT: spec.tenant}


def build(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the Engine API's create call for this spec; the caller adds only ``spec.name``.

    Raises SpecRefused, naming the field and never its value, for anything that is not exactly what it should be.
    """
    _check_names(spec)
    _check_image(spec.image)
    host_ip = _address(spec.host_ip)
    port = f"{_integer('container_port', spec.container_port, 1, 65535)}/tcp"
    host_port = str(_integer("host_port", spec.host_port, 1, 65535))
    if spec.stop_signal not in ALLOWED_STOP_SIGNALS:
        raise SpecRefused("stop_signal is not one that Berth sends")
    env = _env(spec)
    command = [_text("command", part) for part in _strings("command", spec.command)]
    if sum(len(part.encode()) + 1 for part in [*env, *command]) > _MAX_STRINGS:
        raise SpecRefused("env and command are together too long for a process to start with")
    body: dict[str, Any] = {
        "Image": str(spec.image),
        "Hostname": spec.instance,
        "Env": env,
        "Labels": {
            LABEL_PLATFORM: spec.platform,
            LABEL_TENANT: spec.tenant,
            LABEL_APP: spec.app,
            LABEL_RELEASE: str(_integer("release", spec.release, 0, 2**63 - 1)),
            LABEL_INSTANCE: spec.instance,
            LABEL_SPEC: spec.fingerprint,
        },
        "ExposedPorts": {port: {}},
        "StopSignal": spec.stop_signal,
        # Berth probes from outside; an image's own HEALTHCHECK would only burn the tenant's CPU.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **_walls(spec.limits),
            "NetworkMode": network_name(spec),
            "PortBindings": {port: [{"HostIp": host_ip, "HostPort": host_port}]},
        },
    }
    if command:
        body["Cmd"] = command
    return body


def _walls(limits: Limits) -> dict[str, Any]:
    memory = _integer("memory_mb", limits.memory_mb, _MIN_MEMORY_MB, _MAX_MEMORY_MB) * _MIB
    cpu = _integer("cpu_millis", limits.cpu_millis, 1, _MAX_CPU_MILLIS)
    nofile = _integer("nofile", limits.nofile, 1, _MAX_NOFILE)
    return {
        "CapDrop": ["ALL"],
        "CapAdd": _capabilities(limits.capabilities),
        # Nothing about seccomp or AppArmor: their defaults are in force exactly as long as nobody names them.
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "IpcMode": "private",  # said aloud, because the daemon's own default may be "shareable"
        "CgroupnsMode": "private",
        "PidsLimit": _integer("pids", limits.pids, 1, _MAX_PIDS),
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together: equal means no swap
        "CpuShares": min(max(2, cpu * 1024 // 1000), _MAX_CPU_SHARES),
        "Ulimits": [{"Name": "nofile", "Soft": nofile, "Hard": nofile}],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        # The platform decides about restarts; Docker's own would hide a crash from it.
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }


def _check_names(spec: ContainerSpec) -> None:
    for name in ("platform", "tenant", "app", "instance"):
        value = getattr(spec, name)
        if not isinstance(value, str) or not _SLUG.fullmatch(value):
            raise SpecRefused(f"{name} must be 1 to 63 small letters, digits and inner hyphens")


def _check_image(image: ImageRef) -> None:
    registry, repository, digest = image.registry, image.repository, image.digest
    if not all(isinstance(part, str) for part in (registry, repository, digest)):
        raise SpecRefused("image must be three texts")
    host, _, port = registry.partition(":")
    # Docker takes a first part with neither dot nor colon for a Docker Hub user, and pulls a stranger's image.
    if not _REGISTRY.fullmatch(registry) or not ("." in host or port or host == "localhost"):
        raise SpecRefused("registry must be a host name with a dot or a port")
    if port and not 1 <= int(port) <= 65535:
        raise SpecRefused("registry has no such port")
    if len(repository) > _MAX_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise SpecRefused("repository is not a repository's name")
    if not _DIGEST.fullmatch(digest):
        raise SpecRefused("digest must be sha256: and 64 hexadecimal digits")


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise SpecRefused("host_ip must be an IP address")
    try:  # Docker itself takes an address that it cannot read for "every address of the host"
        address = ipaddress.ip_address(value)
    except ValueError:
        raise SpecRefused("host_ip must be an IP address") from None
    # 0.0.0.0 would publish on every network that the host is on, the public one included.
    if address.is_unspecified or address.is_multicast or "%" in value:
        raise SpecRefused("host_ip must be one address of the host")
    return str(address)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise SpecRefused(f"{name} must be a whole number from {low} to {high}")
    return value


def _strings(name: str, value: object) -> tuple[object, ...]:
    if not isinstance(value, tuple):
        raise SpecRefused(f"{name} must be a tuple")  # a lone text would be taken letter by letter
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise SpecRefused(f"{name} must be text without NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise SpecRefused(f"{name} must be text that UTF-8 can hold") from None
    if size > _MAX_STRING:
        raise SpecRefused(f"{name} is longer than {_MAX_STRING} bytes")
    return value


def _env(spec: ContainerSpec) -> list[str]:
    """Sorted, and with the platform's PORT in place of the tenant's: the router relies on it."""
    env = []
    for name, value in spec.env.items():
        if not _ENV_NAME.fullmatch(_text("env name", name)):
            raise SpecRefused("env names must be letters, digits and underscores, not starting with a digit")
        if name != "PORT":
            env.append(_text("env value", f"{name}={_text('env value', value)}"))
    return [*sorted(env), f"PORT={spec.container_port}"]


def _capabilities(wanted: object) -> list[str]:
    capabilities = _strings("capabilities", wanted)
    if not all(isinstance(one, str) and one in ALLOWED_CAPABILITIES for one in capabilities):
        raise SpecRefused("capabilities holds one that no plan can give")
    return sorted({str(one) for one in capabilities})
