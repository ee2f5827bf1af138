"""Each weigher returns a raw number from 0 up, more is better; the pipeline divides by the largest and multiplies.

A cluster's admin sets the weights of those in WEIGHERS. ``untried`` and ``own_hosts`` are ours: the one is part of how
failures are met, the other of what "dedicated" means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from apps.deployments.scheduler.types import Candidate, Request

Weigher = Callable[[Candidate, Request], float]


def untried(host: Candidate, request: Request) -> float:
    """Away from hosts on which it failed a moment ago, unless there is no other."""
    return 0.0 if host.host_id in request.avoid else 1.0


def own_hosts(host: Candidate, request: Request) -> float:
    """A tenant's dedicated hosts first."""
    return 1.0 if host.dedicated_to is not None else 0.0


def spread(host: Candidate, request: Request) -> float:
    """Instances of one app apart, so that one host's death takes few of them."""
    return 1.0 / (1 + host.own_instances)


def free_memory(host: Candidate, request: Request) -> float:
    return float(host.memory_mb_free)


def idle_cpu(host: Candidate, request: Request) -> float:
    """As measured; where nobody measures, what is not promised."""
    if host.cpu_idle is not None:
        return host.cpu_idle
    return max(0.0, host.cpu_millis_free / host.cpu_millis) if host.cpu_millis > 0 else 0.0


def binpack(host: Candidate, request: Request) -> float:
    """The fullest host that it fits on, so that whole hosts stay free for what is large."""
    if host.memory_mb <= 0 or host.cpu_millis <= 0:
        return 0.0
    return (host.memory_mb_claimed / host.memory_mb + host.cpu_millis_claimed / host.cpu_millis) / 2


def image(host: Candidate, request: Request) -> float:
    """Where the image is already, it starts at once."""
    return 1.0 if host.has_image else 0.0


#: The weight of spreading over the values of the label ``zone``; it counts instances per zone, not per host, so the
#: pipeline itself works it out.
ZONE = "zone"

OURS: tuple[tuple[str, Weigher, float], ...] = (("untried", untried, 100.0), ("own_hosts", own_hosts, 50.0))
WEIGHERS: tuple[tuple[str, Weigher, float], ...] = (
    ("spread", spread, 10.0),
    ("free_memory", free_memory, 1.0),
    ("idle_cpu", idle_cpu, 1.0),
    ("binpack", binpack, 0.0),
    ("image", image, 0.2),
)
DEFAULTS: Mapping[str, float] = {ZONE: 20.0, **{name: weight for name, _, weight in WEIGHERS}}


def chosen(weights: Mapping[str, float]) -> dict[str, float]:
    """The cluster's weights over the defaults, by name."""
    return {**DEFAULTS, **{name: float(weight) for name, weight in weights.items() if name in DEFAULTS}}
