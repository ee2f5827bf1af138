"""Images on hosts whose disk runs low: those of ours that nothing needs any more, the longest unused first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from django.conf import settings
from django.db.models import Max

from apps.core import events
from apps.deployments.models import Instance
from apps.deployments.reconcile.clients import Clients
from apps.deployments.services.retention import needed_digests
from apps.hosts.engines.base import EngineError, HostImage
from apps.hosts.models import Host
from apps.hosts.samples import fresh_samples
from apps.hosts.selectors import host_with_engine

log = structlog.get_logger(__name__)

#: In one pass. The host's next reports say whether that was enough: sizes count shared layers more than once.
MOST = 20
#: So much more than the least is made room for, in parts of a hundred of the disk.
BEYOND = 5
MIB = 1024 * 1024
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Ours:
    """``reference`` is its only name."""

    reference: str
    digest: str
    size_bytes: int


def images_prune(host_id: int, clients: Clients) -> int:
    """Remove images until there is room again, MOST at most. Returns how many. Raises HostMissing.

    Nothing is forced, and nothing of others touched: not an image with a tag, nor one of another registry. What a host
    does not say of its disk, or said too long ago, moves nothing.
    """
    host = host_with_engine(host_id)
    missing = _missing_bytes(host)
    if missing <= 0 or host.silent:
        return 0
    removed: list[_Ours] = []
    try:
        engine = clients.engine(host)
        for image in _unneeded(host, engine.images()):
            # Once more: somebody may have gone back to an old release meanwhile. What is pulled anew costs time only.
            if needed_digests([image.digest]) or not engine.image_remove(image.reference):
                continue
            removed.append(image)
            if len(removed) >= MOST or sum(one.size_bytes for one in removed) >= missing:
                break
    except EngineError as error:
        log.warning("images_not_pruned", host=host.name, error=str(error))
    if removed:
        size = sum(one.size_bytes for one in removed) // MIB
        events.record(
            "host.images_removed",
            f"Removed {len(removed)} images of {size} MiB on {host.name}, whose disk runs low: no release needs them.",
            host_id=host.pk,
            images=[one.reference for one in removed],
            size_mb=size,
        )
    return len(removed)


def _missing_bytes(host: Host) -> int:
    """How much room is to be made; nothing where enough of the disk is free, or that is not known."""
    samples = fresh_samples(host)
    if samples is None or not samples.disk_mb or samples.disk_mb_idle is None:
        return 0
    least: int = settings.HOST_IMAGES_DISK_PERCENT
    if samples.disk_mb_idle * 100 >= samples.disk_mb * least:
        return 0
    return (samples.disk_mb * (least + BEYOND) // 100 - samples.disk_mb_idle) * MIB


def _unneeded(host: Host, images: Sequence[HostImage]) -> list[_Ours]:
    ours = [one for image in images if (one := _ours(image)) is not None]
    needed = needed_digests([one.digest for one in ours])
    left = [one for one in ours if one.digest not in needed]
    used = _last_used(host, [one.digest for one in left])
    return sorted(left, key=lambda one: (used.get(one.digest, _NEVER), one.reference))


def _ours(image: HostImage) -> _Ours | None:
    """Only what was pulled from our registry by its digest, and has no other name: that, nobody else made his own."""
    if len(image.references) != 1:
        return None
    name, at, digest = image.references[0].partition("@")
    registry = name.partition("/")[0]
    if not at or registry != settings.REGISTRY_FOR_HOSTS:
        return None
    return _Ours(image.references[0], digest, image.size_bytes)


def _last_used(host: Host, digests: Sequence[str]) -> dict[str, datetime]:
    """When an instance of it ended on this host last, or began if it has not."""
    key = "replica_set__release__version__digest"
    rows = Instance.objects.filter(host=host, **{f"{key}__in": digests}).order_by().values_list(key)
    found = rows.annotate(began=Max("created_at"), ended=Max("released_at"))
    return {digest: max(began, ended or began) for digest, began, ended in found}
