"""What is shown of certificates, published of them, and to be done about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from django.db.models import F, Q, QuerySet

from apps.core.clock import now
from apps.core.errors import Missing
from apps.core.leases import free
from apps.deployments.models import Certificate, Challenge
from apps.deployments.pem import names_served
from apps.deployments.selectors.names import names_held
from apps.tenants.models import Tenant
from gateway.contract.routes import MOST_CHALLENGES


class CertificateMissing(Missing):
    code = "certificates.not_found"


@dataclass(frozen=True, slots=True)
class Shown:
    """One as the gateways should have it. ``wanted``: Certificate.wanted."""

    node: str
    names: tuple[str, ...]
    chain: str
    key: str = field(repr=False)
    pk: int
    wanted: int


def certificates_of(tenant: Tenant) -> QuerySet[Certificate]:
    """Without keys."""
    return Certificate.objects.filter(tenant=tenant).defer("key", "order", "chain").order_by("-pk")


def certificate_of(tenant: Tenant, uid: UUID) -> Certificate:
    """Raises CertificateMissing, also for one of others."""
    found = certificates_of(tenant).filter(uid=uid).first()
    if found is None:
        raise CertificateMissing("The tenant has no such certificate.")
    return found


def shown(pk: int) -> Shown | None:
    """None where there is nothing to be shown: none yet, gone, or for no name that is the tenant's any more."""
    found = Certificate.objects.filter(pk=pk).exclude(chain="").defer("order").first()
    if found is None:
        return None
    held = found.names if found.tenant_id is None else names_held(found.tenant_id)
    names = names_served(found.names, held)
    if not names:
        return None
    return Shown(found.node, tuple(names), found.chain, found.key, found.pk, found.wanted)


def with_certificate() -> list[int]:
    return list(Certificate.objects.exclude(chain="").order_by("pk").values_list("pk", flat=True))


def unpublished() -> list[int]:
    return list(Certificate.objects.filter(wanted__gt=F("published")).order_by("pk").values_list("pk", flat=True)[:200])


def nodes_known(nodes: Iterable[str]) -> set[str]:
    """Those whose certificate is there."""
    asked = {int(one[2:]): one for one in nodes if one.startswith("c-") and one[2:].isdecimal()}
    return {asked[pk] for pk in Certificate.objects.filter(pk__in=asked).values_list("pk", flat=True)}


def challenges_of(app_id: int) -> dict[str, str]:
    return dict(Challenge.objects.filter(app_id=app_id).values_list("token", "answer")[:MOST_CHALLENGES])


def orders_due(limit: int) -> list[int]:
    at = now()
    rows = Certificate.objects.filter(free(at), Q(retry_at=None) | Q(retry_at__lte=at), status__in=Certificate.OPEN)
    return list(rows.order_by("?").values_list("pk", flat=True)[:limit])


def orders_lately(hours: float = 1.0) -> int:
    return Certificate.objects.filter(ordered_at__gte=now() - timedelta(hours=hours)).count()


def renewals_due() -> QuerySet[Certificate]:
    """Those that are in their last third, and renewals that failed: these are tried again every day."""
    at = now()
    rows = Certificate.objects.filter(source=Certificate.Source.ACME, renew_at__lte=at)
    return rows.filter(Q(status=Certificate.Status.READY) | Q(status=Certificate.Status.FAILED, retry_at__lte=at))


def ending(days: int) -> QuerySet[Certificate]:
    """Those that end within so many days, or have."""
    rows = Certificate.objects.filter(not_after__lte=now() + timedelta(days=days)).defer("key", "order", "chain")
    return rows.order_by("pk")
