"""Operators' pages for the registry's contents."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import TabularInline

from apps.core.admin import ReadOnlyAdmin
from apps.registry.models import (
    ExternalRegistry,
    Import,
    Manifest,
    Part,
    RefreshToken,
    Repository,
    Robot,
    TokenKey,
    Upload,
    Version,
)


@admin.register(Repository)
class RepositoryAdmin(ReadOnlyAdmin):
    list_display = ("name", "tenant", "created_at", "listed_at", "cleaned_at", "loose_bytes")
    list_select_related = ("tenant",)
    search_fields = ("name", "tenant__slug")


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    list_display = ("repository", "tag", "digest", "pushed_by", "pushed_at", "is_current")
    list_select_related = ("repository",)
    search_fields = ("repository__name", "tag", "digest")


class _Deletable(ReadOnlyAdmin):
    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return request.user.has_perm(f"registry.delete_{self.model._meta.model_name}")


@admin.register(Robot)
class RobotAdmin(_Deletable):
    """Robots can be deleted here; their secrets can't be read."""

    list_display = ("name", "tenant", "repository", "actions", "is_active", "expires_at", "last_used_at")
    list_select_related = ("tenant", "repository")
    search_fields = ("name", "tenant__slug", "prefix")
    exclude = ("digest",)


@admin.register(RefreshToken)
class RefreshTokenAdmin(_Deletable):
    """What docker login left with clients. Deleting one signs that client out."""

    list_display = ("prefix", "api_token", "robot", "client", "created_at", "expires_at", "last_used_at")
    list_select_related = ("api_token", "robot__tenant")
    search_fields = ("prefix", "api_token__user__username", "robot__name")
    exclude = ("digest",)


@admin.register(TokenKey)
class TokenKeyAdmin(ReadOnlyAdmin):
    list_display = ("kid", "status", "created_at", "signing_at", "retired_at")
    exclude = ("private_key",)


class PartInline(TabularInline):  # type: ignore[misc]
    model = Part
    fields = readonly_fields = ("position", "kind", "digest", "size_bytes")
    extra = 0
    can_delete = False
    max_num = 0


@admin.register(Manifest)
class ManifestAdmin(ReadOnlyAdmin):
    list_display = ("repository", "digest", "kind", "size_bytes", "pushed_by", "pushed_at", "described_at")
    list_select_related = ("repository",)
    list_filter = ("kind",)
    search_fields = ("repository__name", "digest")
    inlines = (PartInline,)


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ("uid", "repository", "tag", "status", "code", "pushed_by", "received_bytes", "created_at")
    list_select_related = ("repository",)
    list_filter = ("status",)
    search_fields = ("uid", "repository__name", "tag", "pushed_by")


@admin.register(ExternalRegistry)
class ExternalRegistryAdmin(ReadOnlyAdmin):
    list_display = ("name", "tenant", "host", "username", "tested_at", "test_code")
    list_select_related = ("tenant",)
    search_fields = ("name", "tenant__slug", "host")
    exclude = ("password",)


@admin.register(Import)
class ImportAdmin(ReadOnlyAdmin):
    list_display = ("uid", "repository", "source", "tag", "status", "code", "pushed_by", "created_at")
    list_select_related = ("repository",)
    list_filter = ("status",)
    search_fields = ("uid", "repository__name", "source_host", "source_path", "pushed_by")
    exclude = ("deploy_with",)
