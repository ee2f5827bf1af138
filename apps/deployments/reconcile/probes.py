"""Asking instances how they are: many at once, on one thread, with plain asyncio streams.

An HTTP client library costs several times more per request than the few lines here (docs/decisions/0007-probes.md),
and a probe must never follow a redirect, keep a connection or decode a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from django.conf import settings

from apps.core.clock import now
from apps.deployments.models import Instance
from apps.deployments.services.instances import instance_fail, instance_ready, instance_unhealthy, probe_noted

log = structlog.get_logger(__name__)

TIMEOUT_S = 2.0
AT_ONCE = 256
#: A host that was not heard of for this long may be cut off from us: its instances' silence proves nothing.
BLIND_S = 8


@dataclass(frozen=True, slots=True)
class Target:
    """An instance's address, and the path that must answer 200 to 399; with no path a TCP connect is enough."""

    pk: int
    host: str
    port: int
    path: str


async def probe(target: Target) -> str | None:
    """None if it is well, else what was wrong in a few words. Takes at most TIMEOUT_S seconds."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _ask(target)
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror or "connection failed"


async def _ask(target: Target) -> str | None:
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=8192)
    try:
        if not target.path:
            return await _stays_open(reader)
        request = (
            f"GET {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
            "User-Agent: berth-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        try:
            line = await reader.readline()
        except ValueError:
            return "its answer is not HTTP"
        if not line:
            return "it closed the connection without an answer"
        parts = line.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
            return "its answer is not HTTP"
        code = int(parts[1])
        return None if 200 <= code < 400 else f"it answered {code}"
    finally:
        writer.close()


async def _stays_open(reader: asyncio.StreamReader) -> str | None:
    """Docker's proxy accepts for a port on which nobody listens, and closes at once: an open port stays open."""
    try:
        async with asyncio.timeout(0.2):
            return None if await reader.read(1) else "it closed the connection at once"
    except TimeoutError:
        return None


async def probe_all(targets: Iterable[Target]) -> dict[int, str | None]:
    """Instance id -> result, a bounded number at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(target: Target) -> tuple[int, str | None]:
        async with gate:
            return target.pk, await probe(target)

    return dict(await asyncio.gather(*(one(target) for target in targets)))


def target_of(instance: Instance) -> Target:
    """Where and how this instance is asked."""
    path = instance.replica_set.release.health_path
    return Target(instance.pk, instance.host.address, instance.port, path)


def probe_pass() -> int:
    """Ask every instance that runs, and note the answers. Returns how many were asked."""
    rows = Instance.objects.filter(
        released=False, status__in=(Instance.Status.RUNNING, Instance.Status.HEALTHY)
    ).select_related("host", "app", "replica_set__release")
    instances = {row.pk: row for row in rows}
    results = asyncio.run(probe_all(target_of(row) for row in instances.values()))
    for pk, wrong in results.items():
        _note(instances[pk], wrong)
    return len(results)


def _note(instance: Instance, wrong: str | None) -> None:
    if instance.status == Instance.Status.RUNNING:
        if wrong is None:
            instance_ready(instance=instance)
        elif instance.deadline_at is not None and now() >= instance.deadline_at:
            never_ready(instance, wrong)
        return
    if wrong is not None and _blind(instance):
        log.warning("probe_blind", instance=str(instance.uid), host=instance.host.name)
        return
    count = probe_noted(instance=instance, failed=wrong is not None)
    if wrong is not None and count >= settings.PROBE_FAILURES:
        instance_unhealthy(instance=instance, reason=f"{count} checks in a row failed, the last: {wrong}.")


def _blind(instance: Instance) -> bool:
    seen = instance.host.last_seen_at
    return seen is None or now() - seen > timedelta(seconds=BLIND_S)


def never_ready(instance: Instance, wrong: str) -> bool:
    release = instance.replica_set.release
    check = f"GET {release.health_path}" if release.health_path else "a TCP connect"
    return instance_fail(
        instance=instance,
        code="instance.never_ready",
        reason=f"It did not become ready in time: {check} on port {release.container_port}: {wrong}.",
    )
