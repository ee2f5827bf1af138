"""What tests of host names share: a DNS server on loopback, and looks at it without waiting for their time."""

from __future__ import annotations

from dataclasses import dataclass

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments import reconcile
from apps.deployments.models import Domain, DomainName
from apps.deployments.reconcile import Clients
from apps.deployments.resolving import PublicResolver
from tests.nameserver import NameServer


@dataclass
class Naming:
    server: NameServer

    def __post_init__(self) -> None:
        self.clients = Clients(resolver=PublicResolver([self.server.address], timeout_s=0.5))

    def look(self, domain: Domain) -> DomainName:
        """One look, now."""
        assert domain.held_id is not None
        DomainName.objects.filter(pk=domain.held_id).update(check_at=now())
        reconcile.domain_prove(domain.held_id, self.clients)
        return DomainName.objects.get(pk=domain.held_id)

    def proven(self, domain: Domain) -> DomainName:
        """The record is put into DNS, and seen."""
        assert domain.held is not None
        self.server.txt(domain.held.record_name, domain.held.record_value)
        claim = self.look(domain)
        assert claim.status == "proven", claim.code
        return claim


def told(code: str) -> list[str]:
    """What events of this code say, the oldest first."""
    return list(Event.objects.filter(code=code).order_by("pk").values_list("message", flat=True))
