"""Host names: who holds one, what of it leads to which app, and who held one before."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.core.models import Leased
from apps.deployments import names
from apps.deployments.models.apps import App
from apps.tenants.models import Tenant

#: Small letters, digits, dots and hyphens; a wildcard's star in front.
NAME = r"\A(\*\.)?[a-z0-9.-]+\Z"


class DomainName(Leased):
    """A tenant's claim to a name. Several may wait to prove the same one; the one that has proven it holds it.

    Until ``expires_at`` a claim may wait; what is held has no end, unless another tenant proves the name while this
    one's proof is gone (``missing_since``).
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        PROVEN = "proven"
        FAILED = "failed"

    class Proof(models.TextChoices):
        TXT = "txt"
        CNAME = "cname"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="names")
    name = models.CharField(max_length=253)
    token = models.CharField(max_length=64, editable=False, help_text="public: it stands in DNS")
    status = models.CharField(max_length=8, choices=Status, default=Status.PENDING)
    proof = models.CharField(max_length=8, choices=Proof, blank=True, help_text="by what it was proven last")
    code = models.CharField(max_length=64, blank=True, help_text="why it is not proven, or was not seen")
    failures = models.PositiveIntegerField(default=0, help_text="looks in a row that found no proof")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150, blank=True)
    expires_at = models.DateTimeField(help_text="so long it may be pending")
    check_at = models.DateTimeField(null=True, help_text="when to look next; never again for one that failed")
    checked_at = models.DateTimeField(null=True, blank=True)
    proven_at = models.DateTimeField(null=True, blank=True)
    missing_since = models.DateTimeField(null=True, blank=True, help_text="since when a proven one's proof is gone")

    class Meta:
        ordering = ("name", "id")
        constraints = (
            models.UniqueConstraint(fields=["tenant", "name"], name="domain_name_once_a_tenant"),
            # Two tenants never hold the same name, whatever the services believe.
            models.UniqueConstraint(fields=["name"], condition=Q(status="proven"), name="domain_name_held_once"),
            models.CheckConstraint(condition=Q(name__regex=NAME), name="domain_name_is_lower_case"),
        )
        indexes = (
            models.Index(fields=["check_at"], condition=Q(check_at__isnull=False), name="domain_name_due"),  # the sweep
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_wildcard(self) -> bool:
        return names.is_wildcard(self.name)

    @property
    def record_name(self) -> str:
        """Where its proof stands in DNS."""
        return names.challenge_of(self.name)

    @property
    def record_value(self) -> str:
        return f"berth-verify={self.token}"


class Domain(models.Model):
    """What leads to an app: a name, or the part of it below a path prefix.

    ``held`` is None for ``{appId}.{platform domain}``; it routes what is not the platform's only once it is proven.
    """

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="domains")
    name = models.CharField(max_length=253)
    prefix = models.CharField(max_length=520, default="/", db_default="/")
    is_platform = models.BooleanField(default=False, help_text="{appId}.{platform domain}")
    held = models.ForeignKey(DomainName, null=True, blank=True, on_delete=models.CASCADE, related_name="domains")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-is_platform", "name", "prefix")
        constraints = (
            models.CheckConstraint(condition=Q(name__regex=NAME), name="domain_is_lower_case"),
            models.CheckConstraint(
                condition=Q(is_platform=True, held=None) | Q(is_platform=False, held__isnull=False),
                name="domain_is_platform_or_held",
            ),
            models.UniqueConstraint(fields=["held", "prefix"], name="domain_once_a_claim"),
            models.UniqueConstraint(fields=["name"], condition=Q(is_platform=True), name="domain_of_platform_once"),
        )

    def __str__(self) -> str:
        return self.name if self.prefix == "/" else f"{self.name}{self.prefix}"

    @property
    def shown(self) -> str:
        """As people write it."""
        return names.shown(self.name)

    @property
    def routes(self) -> bool:
        """Whether gateways know it."""
        return self.held is None or self.held.status == DomainName.Status.PROVEN


class FormerName(models.Model):
    """A name that led to a tenant's app once. DNS may still point it here, so that alone proves it to nobody else."""

    name = models.CharField(max_length=253)
    tenant_id = models.BigIntegerField(help_text="no foreign key: it outlives the tenant")
    ended_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["name", "tenant_id"], name="former_name_once"),)

    def __str__(self) -> str:
        return self.name
