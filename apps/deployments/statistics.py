"""What an app's users got lately, of all gateways together: rates, shares, times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from django.core.cache import cache

from apps.deployments.models import App
from apps.deployments.selectors.gateways import counting_gateways
from apps.deployments.verdict_data import percentile
from gateway.contract import ANSWER_BUCKETS, STATUS_CLASSES, WINDOWS, AppTraffic, GatewayState, Window

#: So long an answer is good for everybody who asks: each page asks every few seconds.
KEPT_S = 2


class Reader(Protocol):
    def of(self, app: str, states: Sequence[GatewayState], *, windows: bool = False) -> dict[str, AppTraffic]: ...


@dataclass(frozen=True, slots=True)
class Lately:
    """Of one window. ``errors_share``: of 0 to 1. Times in milliseconds, until the
    head of an instance's answer; 0 where there was none. ``concurrency``: requests in progress, on average.
    """

    requests: int
    per_second: float
    concurrency: float
    classes: dict[str, int]
    errors_5xx: int
    errors_share: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """``windows``: of the whole app; ``versions``: of each that was asked anything in the last hour.

    ``known`` is false where no gateway could be asked; ``complete`` where one could not, or lost its count.
    """

    known: bool
    complete: bool
    windows: dict[str, Lately]
    versions: dict[str, dict[str, Lately]]


def statistics_of(app: App, reader: Reader) -> Statistics:
    """Takes as long as the slowest gateway, at most the reader's time-out; an answer is kept for KEPT_S."""
    key = f"statistics:{app.pk}"
    kept: Statistics | None = cache.get(key)
    if kept is None:
        states = counting_gateways()
        told = reader.of(app.slug, states, windows=True)
        kept = summed(told.values(), expected=len(states))
        cache.set(key, kept, KEPT_S)
    return kept


def summed(told: Collection[AppTraffic], *, expected: int) -> Statistics:
    tags = sorted({tag for one in told for tag in one.windows})
    complete = len(told) == expected and all(one.listening for one in told)
    everything = {name: lately(spans[name] for one in told for spans in one.windows.values()) for name in WINDOWS}
    versions = {
        tag: {name: lately(one.windows[tag][name] for one in told if tag in one.windows) for name in WINDOWS}
        for tag in tags
        if tag
    }
    busy = {tag: spans for tag, spans in versions.items() if spans["1h"].requests}
    return Statistics(bool(told), complete, everything, busy)


def lately(windows: Iterable[Window]) -> Lately:
    """Of the same window, of different gateways or versions."""
    classes = dict.fromkeys(STATUS_CLASSES, 0)
    histogram = [0] * ANSWER_BUCKETS
    rate = concurrency = 0.0
    bytes_in = bytes_out = 0
    for one in windows:
        for name, count in one.classes.items():
            classes[name] += count
        for bucket, count in enumerate(one.histogram):
            histogram[bucket] += count
        # Gateways that began to count at different times have windows of different lengths.
        rate += sum(one.classes.values()) / one.seconds
        concurrency += one.busy_ms / 1000 / one.seconds
        bytes_in += one.bytes_in
        bytes_out += one.bytes_out
    requests = sum(classes.values())
    return Lately(
        requests=requests,
        per_second=round(rate, 2),
        concurrency=round(concurrency, 2),
        classes=classes,
        errors_5xx=classes["5"],
        errors_share=round(classes["5"] / requests, 5) if requests else 0.0,
        p50_ms=round(percentile(histogram, 0.50), 1),
        p95_ms=round(percentile(histogram, 0.95), 1),
        p99_ms=round(percentile(histogram, 0.99), 1),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
    )
