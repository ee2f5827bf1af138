"""What every engine can do, in words that no engine's SDK leaks into.

Verbs are idempotent: after a timeout or a crash the caller repeats them. Times are seconds, memory is MiB,
CPU is thousandths of a core.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol


class EngineError(Exception):
    """The engine could not do what was asked. ``code`` is stable; ``retryable`` says whether to try again."""

    code = "engine.failed"
    retryable = True


class EngineUnreachable(EngineError):
    """No answer: refused, timed out, or a TLS failure. Nothing is known about the containers."""

    code = "engine.unreachable"


class ImageNotFound(EngineError):
    """The registry has no such repository, tag or digest (any more)."""

    code = "image.not_found"
    retryable = False


class ImageDenied(EngineError):
    """The registry refused the credential of this pull."""

    code = "image.denied"


class ImageUnavailable(EngineError):
    """The host could not reach the registry, or it answered nonsense: nothing is known about the image."""

    code = "image.unavailable"


class PortTaken(EngineError):
    """Something that is not ours holds the chosen port on the host."""

    code = "host.port_taken"
    retryable = False


class SpecRefused(EngineError):
    """The engine refuses the container as described, for instance because its command does not exist."""

    code = "container.refused"
    retryable = False


class NameTaken(EngineError):
    """A container or network that is not ours has the name that ours needs; only the host's admin can move it."""

    code = "host.name_taken"
    retryable = False


class NetworksExhausted(EngineError):
    """The host has no address range left for one more tenant's network (a stock Docker Engine has about 30)."""

    code = "host.networks_exhausted"
    retryable = False


class AddressRefused(EngineError):
    """The engine's address or TLS material cannot be used: a mistake of the platform's admin, not a fault."""

    code = "engine.address_refused"
    retryable = False


@dataclass(frozen=True, slots=True)
class TLSMaterial:
    """PEM texts for mutual TLS: the authority that signed the host, and our client's certificate and key."""

    ca: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """How to reach one engine. ``kind`` names the engine, ``url`` is ``unix:///...`` or ``https://IP:2376``."""

    kind: str
    url: str
    tls: TLSMaterial | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a ping learned."""

    version: str
    cpu_millis: int
    memory_mb: int
    labels: Mapping[str, str] = field(default_factory=dict)
    #: As images name platforms (linux, amd64); empty where the engine does not say.
    os: str = ""
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image pinned by digest, at the address by which the *host* reaches the registry."""

    registry: str
    repository: str
    digest: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Limits:
    """The walls of a container; every one is always set.

    ``nofile`` must stay below the engine's own hard limit on hosts that withhold CAP_SYS_RESOURCE from it: above
    that no container starts at all ("error setting rlimit"). Seen with a limit of 20000, hence the default.
    """

    memory_mb: int
    cpu_millis: int
    pids: int = 512
    nofile: int = 16384
    capabilities: tuple[str, ...] = ()


def container_name(platform: str, app: str, instance: str) -> str:
    return f"berth-{platform}-{app}-{instance}"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that can be asked of a container. What has no field here cannot be expressed, and so not be had."""

    platform: str
    tenant: str
    app: str
    release: int
    instance: str
    image: ImageRef
    container_port: int
    host_ip: str
    host_port: int
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"

    @property
    def name(self) -> str:
        """Deterministic, so that a second attempt finds what the first one made."""
        return container_name(self.platform, self.app, self.instance)

    @property
    def fingerprint(self) -> str:
        """A digest of the spec: a container with another fingerprint is not the one that is wanted.

        The registry's address is left out: the digest already says what runs, and moving the registry must not
        make every running container look unwanted.
        """
        wanted = asdict(replace(self, env=dict(self.env)))
        del wanted["image"]["registry"]
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]


class ContainerState(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Observed:
    """One container of ours as the engine reports it."""

    name: str
    container_id: str
    instance: str
    app: str
    state: ContainerState
    fingerprint: str
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""


class Engine(Protocol):
    """Five verbs. Each raises EngineError (or a subclass) and nothing else."""

    def ping(self) -> EngineInfo: ...

    def ensure(self, spec: ContainerSpec, *, pull_token: str) -> Observed:
        """Make the container exist and have been started once, pulling its image first; adopt one if there.

        A container that already ran and ended is reported as EXITED, never restarted. One with another
        fingerprint is removed and made anew.
        """

    def remove(self, name: str, *, grace_s: int) -> None:
        """Stop signal, grace, kill, remove. A container that is not there is success."""

    def inspect(self, name: str) -> Observed | None: ...

    def list(self, platform: str) -> list[Observed]:
        """Every container that carries this platform's label, ended ones included."""

    def close(self) -> None: ...


class StreamsLogs(Protocol):
    def logs(self, name: str, *, tail: int) -> bytes:
        """The last ``tail`` lines of the container's output, standard error included; at most 1 MiB.

        A container that is not there has no lines.
        """


#: So much of a command's output is kept. Bytes.
MAX_CHECK_OUTPUT = 4096


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command in a container ended. ``exit_code`` None: it had not ended when its time was over."""

    exit_code: int | None
    output: bytes = b""


class RunsChecks(Protocol):
    def check(self, name: str, command: Sequence[str], *, timeout_s: int) -> CommandResult:
        """Run a program in the container, without a shell, with the container's own walls and user.

        At most the first 4 KiB of its output are kept, standard error included. While one with the same arguments still
        runs from before, no other is begun: a command that hangs must not fill the container with its like. Takes
        about ``timeout_s`` and the engine's own time-outs at most. A container that does not run, or is not there, is
        an EngineError: that says nothing about the command.
        """


@dataclass(frozen=True, slots=True)
class HostImage:
    """An image that the host stores. ``references`` are all names that it has: ``registry/repository@sha256:...`` as it
    was pulled by its digest, and tags that somebody gave it. Its size counts layers that it shares with others.
    """

    id: str
    references: tuple[str, ...]
    size_bytes: int


class PrunesImages(Protocol):
    def images(self) -> Sequence[HostImage]:
        """All that the host stores, whoever pulled them."""

    def image_remove(self, reference: str) -> bool:
        """Take a name away, and with its last name the image; never by force. Not there any more is success.

        False where a container is made of it, one that ended included. Raises SpecRefused for anything but an image by
        its digest: tags are somebody else's.
        """


class EventKind(enum.StrEnum):
    """What happened to a container. ``OOM`` says that the kernel killed in it, not yet that it ended."""

    START = "start"
    DIE = "die"
    OOM = "oom"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """Something happened to one container of ours. Only a nudge: what is true is what ``inspect`` answers.

    ``at`` is seconds by the engine's clock, good for nothing but ``since``. ``exit_code`` comes with DIE.
    """

    name: str
    instance: str
    kind: EventKind
    at: float
    exit_code: int | None = None


class StreamsEvents(Protocol):
    def events(self, platform: str, *, since: float | None, stop: Callable[[], bool]) -> Iterator[ContainerEvent]:
        """What happens to this platform's containers: after ``since`` as far back as the engine remembers, else from
        now on. Ends soon after ``stop`` says so, which is asked between events and every few seconds of silence.

        A connection that is merely silent is made anew inside, and nothing is missed; one that breaks raises
        EngineError, and the caller comes again with ``at`` of the last event. One event may come twice.
        """
