"""Each weigher returns a raw number, more is better; the pipeline normalises and multiplies by the weight here."""

from __future__ import annotations

from collections.abc import Callable

from apps.deployments.scheduler.types import Candidate, Request

Weigher = Callable[[Candidate, Request], float]


def free_memory(host: Candidate, request: Request) -> float:
    return host.memory_mb_free


def spread(host: Candidate, request: Request) -> float:
    """Instances of one app apart, so that one host's death takes few of them."""
    return -host.own_instances


def untried(host: Candidate, request: Request) -> float:
    """Away from hosts on which it failed a moment ago, unless there is no other."""
    return 0.0 if host.host_id in request.avoid else 1.0


WEIGHERS: tuple[tuple[Weigher, float], ...] = ((untried, 100.0), (spread, 10.0), (free_memory, 1.0))
