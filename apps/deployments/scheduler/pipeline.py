"""Filter, weigh, choose. Pure: the same input gives the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from apps.deployments.scheduler.filters import refusal
from apps.deployments.scheduler.types import Candidate, Decision, Placed, Request
from apps.deployments.scheduler.weighers import WEIGHERS


def place(request: Request, count: int, candidates: Sequence[Candidate]) -> Decision:
    """Choose a host and a port for each of ``count`` instances, one after the other."""
    hosts = {host.host_id: host for host in candidates}
    placed: list[Placed] = []
    refused: Counter[str] = Counter()
    for _ in range(count):
        reasons = {host.host_id: refusal(host, request) for host in hosts.values()}
        fit = [host for host in hosts.values() if reasons[host.host_id] is None]
        if not fit:
            refused = Counter(reason for reason in reasons.values() if reason)
            break
        best = _best(fit, request)
        port = best.free_port()
        if port is None:
            raise AssertionError("the ports filter let a host without a free port through")
        placed.append(Placed(best.host_id, port))
        hosts[best.host_id] = best.after(request, port)
    return Decision(tuple(placed), refused)


def _best(hosts: Sequence[Candidate], request: Request) -> Candidate:
    scores = dict.fromkeys((host.host_id for host in hosts), 0.0)
    for weigh, weight in WEIGHERS:
        raw = {host.host_id: weigh(host, request) for host in hosts}
        low, high = min(raw.values()), max(raw.values())
        for host_id, value in raw.items():
            # Normalised to 0..1 over the hosts that are left, so that no unit outshouts another.
            scores[host_id] += weight * ((value - low) / (high - low) if high > low else 0.0)
    # Ties go to the lower id: deterministic, and explainable.
    return max(hosts, key=lambda host: (scores[host.host_id], -host.host_id))
