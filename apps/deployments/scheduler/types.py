"""What placement decides on. Memory is MiB, CPU is thousandths of a core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apps.deployments.scheduler.constraints import Constraint


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host as it was read, with what this decision has given away on it so far."""

    host_id: int
    name: str
    generation: int = 0
    status: str = "ready"
    availability: str = "active"
    disk_pressure: bool = False
    memory_mb: int = 0
    cpu_millis: int = 0
    memory_mb_claimed: int = 0
    cpu_millis_claimed: int = 0
    ports_free: int = 1
    #: The range's first and last port, and where to go on.
    ports: tuple[int, int, int] = (0, 0, 0)
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""
    engine: int = 0
    #: Operating system and architecture; empty where they are not known.
    platform: tuple[str, str] = ("", "")
    dedicated_to: int | None = None
    #: Share of the CPU that was measured idle, 0 to 1; None where nobody measures.
    cpu_idle: float | None = None
    own_instances: int = 0
    own_of_release: int = 0
    has_image: bool = False
    #: Of the apps that the request wants to be beside, those that run here.
    neighbours: frozenset[str] = frozenset()

    @property
    def memory_mb_free(self) -> int:
        return self.memory_mb - self.memory_mb_claimed

    @property
    def cpu_millis_free(self) -> int:
        return self.cpu_millis - self.cpu_millis_claimed

    def after(self, request: Request) -> Candidate:
        """This host with one more instance on it."""
        return replace(
            self,
            memory_mb_claimed=self.memory_mb_claimed + request.memory_mb,
            cpu_millis_claimed=self.cpu_millis_claimed + request.cpu_millis,
            ports_free=self.ports_free - 1,
            own_instances=self.own_instances + 1,
            own_of_release=self.own_of_release + 1,
            has_image=True,
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """Where a release may run. ``one_per_host`` is hard anti-affinity within the release; without it instances are
    only preferred apart. A release's predecessor does not count: it leaves when the new one is ready.
    """

    constraints: tuple[Constraint, ...] = ()
    beside: tuple[str, ...] = ()
    one_per_host: bool = False
    min_engine: int = 0
    min_engine_text: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One instance's needs; ``avoid`` names hosts that just failed it.

    ``seed`` decides between hosts that are as good as each other: placers at the same time, each with a seed of its
    own, then don't all want the same one.
    """

    memory_mb: int
    cpu_millis: int
    tenant_id: int = 0
    rules: Rules = Rules()
    avoid: frozenset[int] = frozenset()
    seed: str = ""
    #: Of the image: operating system and architecture. Empty where that is not known; then any host may take it.
    platforms: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    """``scores`` holds what each weigher gave, already multiplied; their sum is what was compared."""

    host_id: int
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The hosts chosen, one per instance, and why others were refused (reason -> count of hosts).

    ``placed`` is shorter than what was asked for where there was no more room.
    """

    placed: tuple[Placed, ...]
    refused: Mapping[str, int]
