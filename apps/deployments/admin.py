"""Operators' pages for what runs. The loop alone changes these rows; operators read.

A tenant is deleted with what runs for it, so that action is here as well.
"""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from apps.core.admin import ReadOnlyAdmin
from apps.core.clock import now
from apps.core.errors import BerthError
from apps.deployments.models import (
    AcmeAccount,
    App,
    Certificate,
    Challenge,
    Domain,
    DomainName,
    FormerName,
    Gateway,
    GatewayPolicy,
    GatewayPort,
    Instance,
    Release,
    ReplicaSet,
    Retention,
    Rollout,
    SignInPerson,
)
from apps.deployments.selectors import apps_of_tenant
from apps.deployments.selectors.gateways import Lagging, lease_begins, with_lag
from apps.deployments.services.deleting import DELETE_TENANTS, dedicated_hosts, tenant_delete
from apps.tenants.admin import TenantAdmin
from apps.tenants.models import Tenant
from apps.tenants.permissions import operates, person


@admin.register(App)
class AppAdmin(ReadOnlyAdmin):
    list_display = (
        "slug",
        "tenant",
        "cluster",
        "protocol",
        "created_at",
        "deleting_at",
        "route_wanted",
        "route_published",
    )
    list_select_related = ("tenant", "cluster")
    search_fields = ("slug", "tenant__slug")


@admin.register(Domain)
class DomainAdmin(ReadOnlyAdmin):
    list_display = ("name", "prefix", "app", "held", "is_platform")
    list_select_related = ("app", "held")
    list_filter = ("is_platform",)
    search_fields = ("name", "app__slug")


@admin.register(DomainName)
class DomainNameAdmin(ReadOnlyAdmin):
    list_display = ("name", "tenant", "status", "proof", "code", "proven_at", "checked_at", "check_at", "missing_since")
    list_select_related = ("tenant",)
    list_filter = ("status", "proof")
    search_fields = ("name", "tenant__slug")


@admin.register(FormerName)
class FormerNameAdmin(ReadOnlyAdmin):
    list_display = ("name", "tenant_id", "ended_at")
    search_fields = ("name",)


@admin.register(Certificate)
class CertificateAdmin(ReadOnlyAdmin):
    """Without keys, and without orders, which have some."""

    list_display = ("__str__", "tenant", "source", "status", "not_after", "code", "retry_at", "attempts")
    list_select_related = ("tenant",)
    list_filter = ("source", "status")
    search_fields = ("name", "tenant__slug", "fingerprint")
    exclude = ("key", "order")


@admin.register(Challenge)
class ChallengeAdmin(ReadOnlyAdmin):
    list_display = ("app", "certificate", "token")
    list_select_related = ("app", "certificate")
    search_fields = ("app__slug", "certificate__name")


@admin.register(AcmeAccount)
class AcmeAccountAdmin(ReadOnlyAdmin):
    list_display = ("directory", "uri", "created_at")
    search_fields = ("directory",)
    exclude = ("key",)


@admin.register(Release)
class ReleaseAdmin(ReadOnlyAdmin):
    """Without env: an operator has no need of tenants' secrets."""

    list_display = ("app", "number", "version", "memory_mb", "cpu_millis", "created_at", "created_by")
    list_select_related = ("app", "version")
    search_fields = ("app__slug",)
    exclude = ("env",)


@admin.register(ReplicaSet)
class ReplicaSetAdmin(ReadOnlyAdmin):
    list_display = ("app", "release", "wanted", "weight")
    list_select_related = ("app", "release__app")
    search_fields = ("app__slug",)


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    list_display = ("app", "number", "status", "code", "reason", "created_at", "created_by", "ended_at")
    list_select_related = ("app",)
    list_filter = ("status",)
    search_fields = ("app__slug", "code")


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    list_display = ("short_id", "app", "host", "port", "status", "status_since", "code", "reason", "released")
    list_select_related = ("app", "host")
    list_filter = ("status", "released")
    search_fields = ("app__slug", "host__name", "container_id")


@admin.register(Retention)
class RetentionAdmin(ReadOnlyAdmin):
    list_display = ("app", "is_on", "keep_last", "keep_days", "keep_tags", "rollback_releases", "updated_by")
    list_select_related = ("app",)
    list_filter = ("is_on",)
    search_fields = ("app__slug",)


@admin.register(Gateway)
class GatewayAdmin(ReadOnlyAdmin):
    list_display = ("name", "is_live", "seen_ago", "behind", "epoch", "served", "last_seen_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Gateway]:
        return with_lag(super().get_queryset(request))

    @admin.display(boolean=True, description="live")
    def is_live(self, row: Gateway) -> bool:
        """It may still route, so drains wait for it."""
        return row.last_seen_at >= lease_begins()

    @admin.display(description="seen")
    def seen_ago(self, row: Gateway) -> str:
        return f"{max(0.0, (now() - row.last_seen_at).total_seconds()):.0f} s ago"

    @admin.display(description="lag")
    def behind(self, row: Lagging) -> str:
        """How many apps' newest publications it has not in force, as far as the platform has heard."""
        return f"{row.unserved_apps} apps" if row.unserved_apps else "none"


@admin.register(GatewayPolicy)
class GatewayPolicyAdmin(ReadOnlyAdmin):
    list_display = ("app", "maintenance", "https_only", "app_rate", "client_rate", "updated_at", "updated_by")
    list_select_related = ("app",)
    list_filter = ("maintenance",)
    search_fields = ("app__slug",)
    exclude = ("salt",)


@admin.register(SignInPerson)
class SignInPersonAdmin(ReadOnlyAdmin):
    """Without the digest: it is quick to try passwords on."""

    list_display = ("app", "name", "created_at", "created_by")
    list_select_related = ("app",)
    search_fields = ("app__slug", "name")
    exclude = ("digest",)


@admin.register(GatewayPort)
class GatewayPortAdmin(ReadOnlyAdmin):
    list_display = ("port", "status", "owner", "tenant_id", "claimed_at", "freed_at", "epoch", "zxid")
    list_filter = ("status",)
    search_fields = ("port",)


admin.site.unregister(Tenant)


@admin.register(Tenant)
class TenantWithAppsAdmin(TenantAdmin):
    actions = ("delete_tenant",)

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        """A row that is deleted leaves what runs for it: see the action."""
        return False

    def has_take_apart_permission(self, request: HttpRequest) -> bool:
        return operates(request.user, DELETE_TENANTS)

    @admin.action(description="Delete with all that it has…", permissions=["take_apart"])
    def delete_tenant(self, request: HttpRequest, queryset: QuerySet[Tenant]) -> HttpResponse | None:
        """Asks first, on a page of its own that wants the name typed; so one at a time."""
        tenant = queryset.first()
        if tenant is None or queryset.count() > 1:
            self.message_user(request, "Select one tenant: each is confirmed by its name.", messages.ERROR)
            return None
        back = reverse("admin:tenants_tenant_changelist")
        refusal = ""
        if "confirmed" in request.POST:
            try:
                tenant_delete(
                    tenant=tenant,
                    by=person(request.user),
                    confirm=request.POST.get("confirm", ""),
                    with_apps="with_apps" in request.POST,
                )
            except BerthError as error:
                refusal = error.detail
            else:
                self.message_user(request, f"{tenant.slug} is being deleted.", messages.SUCCESS)
                return HttpResponseRedirect(back)
        context = {
            **self.admin_site.each_context(request),
            "title": "Delete a tenant",
            "opts": self.opts,
            "tenant": tenant,
            "apps": list(apps_of_tenant(tenant.pk)),
            "hosts": dedicated_hosts(tenant),
            "members": tenant.memberships.count(),
            "refusal": refusal,
            "back": back,
        }
        return TemplateResponse(request, "admin/tenants/tenant/delete.html", context)
