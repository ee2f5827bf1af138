"""What placement decides on. Memory is MiB, CPU is thousandths of a core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host as it was read, with what this decision has given away on it so far."""

    host_id: int
    name: str
    generation: int
    ready: bool
    memory_mb: int
    cpu_millis: int
    memory_mb_claimed: int
    cpu_millis_claimed: int
    port_min: int
    port_max: int
    port_next: int
    ports_taken: frozenset[int] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    own_instances: int = 0

    @property
    def memory_mb_free(self) -> int:
        return self.memory_mb - self.memory_mb_claimed

    @property
    def cpu_millis_free(self) -> int:
        return self.cpu_millis - self.cpu_millis_claimed

    def free_port(self) -> int | None:
        """The next free port, going round the range so that a freed one is used again as late as possible."""
        size = self.port_max - self.port_min + 1
        start = self.port_next if self.port_min <= self.port_next <= self.port_max else self.port_min
        for step in range(size):
            port = self.port_min + (start - self.port_min + step) % size
            if port not in self.ports_taken:
                return port
        return None

    def after(self, request: Request, port: int) -> Candidate:
        """This host with one more instance on it."""
        return replace(
            self,
            memory_mb_claimed=self.memory_mb_claimed + request.memory_mb,
            cpu_millis_claimed=self.cpu_millis_claimed + request.cpu_millis,
            ports_taken=self.ports_taken | {port},
            port_next=port + 1,
            own_instances=self.own_instances + 1,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One instance's needs; ``avoid`` names hosts that just failed it."""

    memory_mb: int
    cpu_millis: int
    avoid: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    host_id: int
    port: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The hosts chosen, one per instance, and why others were refused (reason -> count of hosts).

    ``placed`` is shorter than what was asked for where there was no more room.
    """

    placed: tuple[Placed, ...]
    refused: Mapping[str, int]
