"""What is read of host names: by people, by the loop, and by whoever needs to know what an app may answer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

from django.conf import settings
from django.db.models import Q, QuerySet

from apps.core.clock import now
from apps.core.errors import Missing
from apps.core.leases import free
from apps.deployments import names
from apps.deployments.models import App, Domain, DomainName, FormerName
from apps.tenants.models import Tenant

PROVEN = DomainName.Status.PROVEN


class DomainMissing(Missing):
    code = "domains.not_found"


@dataclass(frozen=True, slots=True)
class Leads:
    """What leads to an app. ``whole``: host names of which everything is its own; ``places``: host or wildcard, and the
    prefix below which it is."""

    whole: tuple[str, ...]
    places: tuple[tuple[str, str], ...] = ()


def leads_to(app_id: int) -> Leads:
    """What is the platform's, and what its tenant has proven."""
    rows = Domain.objects.filter(Q(held=None) | Q(held__status=PROVEN), app_id=app_id)
    whole, places = [], []
    for name, prefix in rows.order_by("name", "prefix").values_list("name", "prefix"):
        if prefix == "/" and not names.is_wildcard(name):
            whole.append(name)
        else:
            places.append((name, prefix))
    return Leads(tuple(whole), tuple(places))


def platform_address(app: App) -> str:
    return f"{app.slug}.{settings.PLATFORM_DOMAIN}"


def domains_of(app: App) -> QuerySet[Domain]:
    return app.domains.select_related("app__tenant", "held")


def domains_of_tenant(tenant: Tenant) -> QuerySet[Domain]:
    """Of all its apps."""
    return Domain.objects.filter(app__tenant=tenant).select_related("app__tenant", "held")


def domain_of(app: App, pk: int) -> Domain:
    """Raises DomainMissing."""
    domain = domains_of(app).filter(pk=pk).first()
    if domain is None:
        raise DomainMissing(f"{app.slug} has no domain {pk}.")
    return domain


class Record(TypedDict):
    """A DNS record."""

    type: str
    name: str
    value: str


def records_of(domain: Domain) -> list[Record]:
    """Each of what may be put into DNS to prove the name; first the one that always does."""
    claim = domain.held
    if claim is None:
        return []
    found = [Record(type="TXT", name=claim.record_name, value=claim.record_value)]
    if not claim.is_wildcard:
        found.append(Record(type="CNAME", name=claim.name, value=platform_address(domain.app)))
    return found


def own_hosts() -> set[str]:
    """The platform's own host names beside its domain: portal, registry, gateways, and what operators list."""
    named = {urlsplit(url).hostname for url in (settings.PORTAL_URL, settings.REGISTRY_URL)}
    named |= {urlsplit(f"//{place}").hostname for place in (settings.REGISTRY_PUBLIC, settings.REGISTRY_FOR_HOSTS)}
    named |= {one.lower() for one in settings.PLATFORM_NAMES}
    return {one for one in named if one and "." in one and not one.replace(".", "").isdigit() and ":" not in one}


def colliding(name: str, tenant_id: int) -> QuerySet[DomainName]:
    """What other tenants hold that is the same name, is a wildcard above it, or would be below it as a wildcard."""
    met = Q(name=name) | Q(name__in=[f"*.{above}" for above in names.parents(name)])
    if names.is_wildcard(name):
        met |= Q(name__endswith=f".{names.bare(name)}")
    return DomainName.objects.filter(met, status=PROVEN).exclude(tenant_id=tenant_id)


def pending_elsewhere(name: str, tenant_id: int) -> QuerySet[DomainName]:
    return DomainName.objects.filter(name=name, status=DomainName.Status.PENDING).exclude(tenant_id=tenant_id)


def aliases_of(claim: DomainName) -> frozenset[str]:
    """The addresses of which the name may be an alias to prove the claim; none where only a TXT record does.

    A name, or an app's address, that led to another tenant once may still be in DNS from that time.
    """
    if claim.is_wildcard:
        return frozenset()
    apps = App.objects.filter(tenant_id=claim.tenant_id, deleting_at=None)
    addresses = {platform_address(app) for app in apps.only("slug")}
    if claim.status == PROVEN:
        return frozenset(addresses)
    if DomainName.objects.filter(name=claim.name, status=PROVEN).exclude(tenant_id=claim.tenant_id).exists():
        return frozenset()
    former = FormerName.objects.exclude(tenant_id=claim.tenant_id)
    if former.filter(name=claim.name).exists():
        return frozenset()
    return frozenset(addresses - set(former.filter(name__in=addresses).values_list("name", flat=True)))


def names_due(limit: int) -> list[int]:
    """Claims that are to be looked at, those that waited the longest first."""
    rows = DomainName.objects.filter(free(), check_at__lte=now())
    return list(rows.order_by("check_at").values_list("pk", flat=True)[:limit])
