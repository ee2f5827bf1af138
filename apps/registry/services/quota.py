"""A tenant's storage in the registry: counted, told of when it is used up, and asked for before a push."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction

from apps.core import events
from apps.core.clock import now
from apps.registry.models import Repository
from apps.registry.selectors import loose_of, storage_of
from apps.tenants.models import Quota
from apps.tenants.services.tenants import QuotaExceeded

MIB = 1024 * 1024


def storage_refusal(repository: Repository) -> str | None:
    """Why nothing may be pushed to the repository now, in words that the registry's clients show; None if it may.

    For the token server, which gives no token for a push then. Pulls and deletions are never refused for it. What is
    counted is a little late, and how much a push brings nobody knows before: a tenant is refused once it is over.
    """
    quota = Quota.objects.select_related("tenant").filter(tenant_id=repository.tenant_id).first()
    if quota is None or quota.storage_bytes_used < quota.storage_mb * MIB:
        return None
    return (
        f"{quota.tenant.slug} has used up its storage: {_gib(quota.storage_bytes_used)} of "
        f"{_gib(quota.storage_mb * MIB)} GiB. Delete versions, or ask an admin for more."
    )


def storage_check(*, tenant_id: int, more: int) -> None:
    """Raises QuotaExceeded where so many bytes more are too many for the tenant: where they are known beforehand."""
    quota = Quota.objects.filter(tenant_id=tenant_id).first()
    if quota is not None and quota.storage_bytes_used + more > quota.storage_mb * MIB:
        raise QuotaExceeded(
            f"The tenant may store {quota.storage_mb} MiB of images and has {quota.storage_bytes_used // MIB} MiB. "
            "Delete versions that are not needed, or ask an admin for more."
        )


def _gib(count: int) -> str:
    return f"{count / 1024**3:.2f}"


def storage_count(*, tenant_id: int) -> int | None:
    """Write down what the tenant stores, in bytes. An event tells once when it has used up what it may, and when not
    any more. None for a tenant that is gone, or that somebody else just counted for.
    """
    quota = Quota.objects.select_related("tenant").filter(tenant_id=tenant_id).first()
    if quota is None:
        return None
    # Not under the row's lock, which placements need: adding up takes a while where there is much.
    used = storage_of(tenant_id) + loose_of(tenant_id)
    return used if _written(quota, used) else None


@transaction.atomic
def _written(quota: Quota, used: int) -> bool:
    rows = Quota.objects.filter(pk=quota.pk, storage_bytes_used=quota.storage_bytes_used)
    if not rows.update(storage_bytes_used=used, storage_counted_at=now()):
        return False
    tenant_id, limit = quota.tenant_id, quota.storage_mb * MIB
    if quota.storage_bytes_used < limit <= used:
        events.record(
            "storage.over_quota",
            f"{quota.tenant.slug} has used up its storage: {_gib(used)} of {_gib(limit)} GiB. Nothing more can be "
            "pushed until versions are deleted.",
            level="warning",
            tenant_id=tenant_id,
            used_bytes=used,
            limit_bytes=limit,
        )
    elif used < limit <= quota.storage_bytes_used:
        events.record(
            "storage.within_quota",
            f"{quota.tenant.slug} has storage left again: {_gib(used)} of {_gib(limit)} GiB are used.",
            tenant_id=tenant_id,
            used_bytes=used,
            limit_bytes=limit,
        )
    return True


def storage_sweep(*, limit: int) -> int:
    """Count for those tenants that it was not done for the longest time. Returns how many."""
    rows = Quota.objects.order_by("storage_counted_at", "pk").values_list("tenant_id", flat=True)
    first = list(rows.filter(storage_counted_at=None)[:limit])
    found = [*first, *rows.exclude(storage_counted_at=None)[: limit - len(first)]]
    for tenant_id in found:
        storage_count(tenant_id=tenant_id)
    return len(found)


def loose_noted(*, loose: Mapping[str, int]) -> None:
    """Repository -> bytes that it stores beside what its manifests name, as the storage was seen just now."""
    tenants = set()
    rows = Repository.objects.order_by().values_list("pk", "name", "tenant_id", "loose_bytes")
    for pk, name, tenant_id, before in rows:
        if name in loose and loose[name] != before:
            Repository.objects.filter(pk=pk).update(loose_bytes=loose[name])
            tenants.add(tenant_id)
    for tenant_id in tenants:
        storage_count(tenant_id=tenant_id)
