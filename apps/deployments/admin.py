"""Operators' pages for what runs. The loop alone changes these rows; operators read."""

from __future__ import annotations

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin
from apps.deployments.models import App, Domain, Gateway, Instance, Release, ReplicaSet, Rollout


@admin.register(App)
class AppAdmin(ReadOnlyAdmin):
    list_display = ("slug", "tenant", "cluster", "created_at", "route_wanted", "route_published")
    list_select_related = ("tenant", "cluster")
    search_fields = ("slug", "tenant__slug")


@admin.register(Domain)
class DomainAdmin(ReadOnlyAdmin):
    list_display = ("name", "app", "is_platform")
    list_select_related = ("app",)
    search_fields = ("name", "app__slug")


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


@admin.register(Gateway)
class GatewayAdmin(ReadOnlyAdmin):
    list_display = ("name", "epoch", "served", "last_seen_at")
