"""Which names a tenant holds: those that its certificates may be shown for."""

from __future__ import annotations

from apps.deployments.models import Domain


def names_held(tenant_id: int) -> set[str]:
    """Proven, and its own: an address of the platform has the platform's certificate."""
    rows = Domain.objects.filter(app__tenant_id=tenant_id, app__deleting_at=None, is_platform=False)
    return set(rows.values_list("name", flat=True))


def app_of_name(tenant_id: int, name: str) -> int | None:
    """The app that the name leads to; None where the tenant does not hold it (any more)."""
    rows = Domain.objects.filter(app__tenant_id=tenant_id, app__deleting_at=None, is_platform=False, name=name)
    return rows.values_list("app_id", flat=True).first()
