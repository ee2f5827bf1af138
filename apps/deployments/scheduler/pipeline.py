"""Filter, weigh, choose. Pure: the same input gives the same answer."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from apps.deployments.scheduler.filters import refusal
from apps.deployments.scheduler.types import Candidate, Decision, Placed, Request
from apps.deployments.scheduler.weighers import OURS, WEIGHERS, ZONE, Weigher, chosen

#: Hosts whose sums differ by less are as good as each other; which of them is taken, the request's seed decides.
#: A strict order would send all placers of one moment to the same host, and all but one of them round again.
GRAIN = 0.05


class Scorer:
    """What each weigher gives to a host. Divided by the largest among ``hosts``, so that no unit outshouts another."""

    def __init__(self, request: Request, hosts: Iterable[Candidate], weights: Mapping[str, float]) -> None:
        own = chosen(weights)
        self._request = request
        self.zone_weight = own[ZONE]
        self._parts: list[tuple[str, Weigher, float]] = []
        hosts = list(hosts)
        for name, weigh, default in (*OURS, *WEIGHERS):
            weight = own.get(name, default)
            largest = max((weigh(host, request) for host in hosts), default=0.0)
            if weight and largest > 0:
                self._parts.append((name, weigh, weight / largest))

    def of(self, host: Candidate) -> dict[str, float]:
        """By weigher, without the zone's share."""
        return {name: factor * weigh(host, self._request) for name, weigh, factor in self._parts}

    def sum(self, host: Candidate) -> float:
        request = self._request
        return sum(factor * weigh(host, request) for _, weigh, factor in self._parts)

    def zone(self, skew: int) -> float:
        """For a zone that holds so many more of the app's instances than the one that holds fewest."""
        return self.zone_weight / (1 + skew)

    def tie(self, host: Candidate) -> int:
        return zlib.crc32(f"{self._request.seed}/{host.host_id}".encode())


Entry = tuple[int, int, int]


def place(
    request: Request,
    count: int,
    candidates: Sequence[Candidate],
    *,
    weights: Mapping[str, float] | None = None,
    zones: Mapping[str, int] | None = None,
) -> Decision:
    """Choose a host for each of ``count`` instances, one after the other.

    ``weights`` are the cluster's, over the defaults. ``zones`` says how many instances the app has in each zone.
    """
    fit: dict[int, Candidate] = {}
    refused: Counter[str] = Counter()
    for host in candidates:
        if reason := refusal(host, request):
            refused[reason] += 1
        else:
            fit[host.host_id] = host
    scorer = Scorer(request, fit.values(), weights or {})
    held = Counter(zones or {})
    # A heap per zone: the zone's share is the same for all hosts in it, so that one placement moves one host only.
    heaps: dict[str, list[Entry]] = defaultdict(list)
    for host in fit.values():
        heaps[host.zone].append(_entry(scorer, host))
    for heap in heaps.values():
        heapq.heapify(heap)
    placed: list[Placed] = []
    while len(placed) < count and heaps:
        fewest = min(held[name] for name in heaps)
        zone = min(
            heaps, key=lambda name: (_rank(heaps[name][0], scorer.zone(held[name] - fewest)), heaps[name][0][1:])
        )
        heap = heaps[zone]
        host = fit[heap[0][2]]
        scores = scorer.of(host)
        if scorer.zone_weight and len(heaps) > 1:
            scores[ZONE] = scorer.zone(held[zone] - fewest)
        placed.append(Placed(host.host_id, scores))
        held[zone] += 1
        fit[host.host_id] = host = host.after(request)
        if reason := refusal(host, request):
            refused[reason] += 1
            heapq.heappop(heap)
            if not heap:
                del heaps[zone]
        else:
            heapq.heapreplace(heap, _entry(scorer, host))
    return Decision(tuple(placed), refused)


def _entry(scorer: Scorer, host: Candidate) -> Entry:
    """Smallest first: the best sum, then the seed's choice, then the lower id."""
    return (-round(scorer.sum(host) / GRAIN), scorer.tie(host), host.host_id)


def _rank(best: Entry, zone: float) -> int:
    return best[0] - round(zone / GRAIN)
