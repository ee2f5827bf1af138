"""What gateways counted between two looks. Pure: counters in, numbers out.

A gateway that only one of the two looks has is left out: its counters are older than the first look, or nobody knows.
One whose counters began anew meanwhile (another ``since``) counts with all that it has counted since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gateway.contract import ANSWER_BOUNDS_MS, ANSWER_BUCKETS, AppTraffic, ContainerTraffic

Counters = Mapping[str, AppTraffic]

_NOTHING = ContainerTraffic(0, 0, (0,) * ANSWER_BUCKETS)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of some containers. ``histogram`` counts answer times by ANSWER_BOUNDS_MS."""

    requests: int
    errors_5xx: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SeenApp:
    """Of a whole app. ``unserved`` are among ``errors_5xx``; ``broken`` (answers that broke off) are not."""

    requests: int
    errors_5xx: int
    unserved: int
    broken: int


def window(before: Counters, after: Counters, containers: Collection[str]) -> Seen:
    """What these containers answered between two looks, at all gateways together."""
    requests = errors = 0
    histogram = [0] * ANSWER_BUCKETS
    for old, new in _pairs(before, after):
        for name in new.containers.keys() & set(containers):
            first, last = _NOTHING if old is None else old.containers.get(name, _NOTHING), new.containers[name]
            if first.requests > last.requests:
                # Forgotten by the gateway meanwhile, and back.
                first = _NOTHING
            requests += last.requests - first.requests
            errors += last.errors_5xx - first.errors_5xx
            for bucket, count in enumerate(last.histogram):
                histogram[bucket] += count - first.histogram[bucket]
    return Seen(requests, errors, tuple(histogram))


def app_window(before: Counters, after: Counters) -> SeenApp:
    """What the app's users got between two looks, at all gateways together."""
    requests = errors = unserved = broken = 0
    for old, new in _pairs(before, after):
        if old is not None and old.requests > new.requests:
            old = None
        requests += new.requests - (old.requests if old else 0)
        errors += new.classes["5"] - (old.classes["5"] if old else 0)
        unserved += new.unserved - (old.unserved if old else 0)
        broken += new.broken - (old.broken if old else 0)
    return SeenApp(requests, errors, unserved, broken)


def percentile(histogram: Collection[int], share: float) -> float:
    """The time in milliseconds that this share (0 to 1) of the answers took at most; 0.0 where there are none.

    Read in between the bounds of its bucket, and never more than the last bound.
    """
    rest = sum(histogram) * share
    if not rest:
        return 0.0
    low = 0
    for high, count in zip(ANSWER_BOUNDS_MS, histogram, strict=False):
        if count and rest <= count:
            return low + (high - low) * rest / count
        rest -= count
        low = high
    return float(low)


def _pairs(before: Counters, after: Counters) -> Iterator[tuple[AppTraffic | None, AppTraffic]]:
    """None for a gateway whose counters began anew."""
    for gateway in sorted(before.keys() & after.keys()):
        old, new = before[gateway], after[gateway]
        yield (old if old.since == new.since else None), new
