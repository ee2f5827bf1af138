"""What a gateway says to Prometheus, in its text format. Pure.

By hand: prometheus-client takes ten times as long for 10,000 apps. Each label is an app's id, a gateway's or a word of
ours, none of which needs escaping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

KIND = "text/plain; version=0.0.4; charset=utf-8"

#: Name, type, what it is, and where the picture of /status has it.
_STATUS = (
    ("zookeeper_connected", "gauge", "Whether the ZooKeeper session is there", "zookeeper"),
    ("served_zxid", "gauge", "ZooKeeper transaction up to which every change is in force", "served"),
    ("in_force", "gauge", "Whether all that is wanted is in force", "in_force"),
    ("in_grace", "gauge", "Whether apps of an older epoch are still served", "in_grace"),
    ("apps", "gauge", "Apps that are routed", "apps"),
    ("instances", "gauge", "Instances that are routed to", "instances"),
    ("slots", "gauge", "Declared backends", "slots"),
    ("haproxy_starts_total", "counter", "Starts of HAProxy by this agent", "haproxy_starts"),
    ("haproxy_reloads_total", "counter", "Reloads of HAProxy by this agent", "haproxy_reloads"),
)
_TRAFFIC = (
    ("listening", "gauge", "Whether requests are counted", "listening"),
    ("lines_dropped_total", "counter", "Lines of requests that found no room", "dropped"),
    ("lines_malformed_total", "counter", "Lines that were not understood", "malformed"),
    ("homeless_requests_total", "counter", "Requests that found no app", "homeless"),
    ("counted_containers", "gauge", "Containers that requests are counted of", "containers"),
)
_APP = (
    ("unserved_total", "Requests that the gateway answered because no instance could be asked", "unserved", 1),
    ("broken_total", "Answers that broke off in the middle", "broken", 1),
    ("busy_seconds_total", "What requests took together; its rate is how many are in progress", "busy_ms", 1000),
)


def exposition(status: Mapping[str, Any], totals: Mapping[str, Any], memory: Mapping[str, int]) -> bytes:
    """``memory``: bytes of resident memory by process."""
    lines: list[str] = []
    for name, kind, words, key in _STATUS:
        lines += _family(f"berth_gateway_{name}", kind, words, [("", status.get(key))])
    for name, kind, words, key in _TRAFFIC:
        lines += _family(f"berth_gateway_{name}", kind, words, [("", totals.get(key))])
    tables = [(f'{{table="{name.removesuffix(".map")}"}}', count) for name, count in status.get("tables", {}).items()]
    lines += _family("berth_gateway_table_entries", "gauge", "Entries of HAProxy's maps", tables)
    resident = [(f'{{process="{name}"}}', size) for name, size in memory.items()]
    lines += _family("berth_gateway_resident_memory_bytes", "gauge", "Resident memory", resident)
    fates = [(f'{{fate="{fate}"}}', status.get("access_log", {}).get(fate)) for fate in ("sent", "thinned", "dropped")]
    lines += _family("berth_gateway_access_log_lines_total", "counter", "Lines of the access log", fates)
    lines += _of_apps(totals["apps"])
    return ("\n".join(lines) + "\n").encode()


def _of_apps(apps: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    requests = (
        (f'{{app="{app}",class="{kind}"}}', count)
        for app, counts in apps.items()
        for kind, count in counts["classes"].items()
        if count
    )
    yield from _family("berth_app_requests_total", "counter", "Requests by the first digit of their status", requests)
    moved = (
        (f'{{app="{app}",direction="{way}"}}', counts[f"bytes_{way}"])
        for app, counts in apps.items()
        if counts["requests"]
        for way in ("in", "out")
    )
    yield from _family("berth_app_bytes_total", "counter", "Bytes from clients (in) and to them (out)", moved)
    for name, words, key, divisor in _APP:
        counted = (
            (f'{{app="{app}"}}', counts[key] / divisor if divisor > 1 else counts[key])
            for app, counts in apps.items()
            if counts["requests"]
        )
        yield from _family(f"berth_app_{name}", "counter", words, counted)


def _family(name: str, kind: str, words: str, samples: Iterable[tuple[str, Any]]) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        if value is not None:
            yield f"{name}{labels} {value + 0}"
