"""Which names a tenant holds: those that its certificates may be shown for."""

from __future__ import annotations

from apps.deployments.models import Domain, DomainName


def names_held(tenant_id: int) -> set[str]:
    """Proven, and its own: an address of the platform has the platform's certificate."""
    rows = DomainName.objects.filter(tenant_id=tenant_id, status=DomainName.Status.PROVEN)
    return set(rows.values_list("name", flat=True))


def app_of_name(tenant_id: int, name: str) -> int | None:
    """The app that the name leads to, but for parts of it; None where there is none of the tenant's, or the name is
    not its own (any more).
    """
    rows = Domain.objects.filter(
        app__tenant_id=tenant_id, app__deleting_at=None, name=name, prefix="/", held__status=DomainName.Status.PROVEN
    )
    return rows.values_list("app_id", flat=True).first()
