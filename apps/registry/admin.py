"""Operators' pages for the registry's contents."""

from __future__ import annotations

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin
from apps.registry.models import Repository, Version


@admin.register(Repository)
class RepositoryAdmin(ReadOnlyAdmin):
    list_display = ("name", "tenant", "created_at", "listed_at")
    list_select_related = ("tenant",)
    search_fields = ("name", "tenant__slug")


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    list_display = ("repository", "tag", "digest", "pushed_by", "pushed_at", "is_current")
    list_select_related = ("repository",)
    search_fields = ("repository__name", "tag", "digest")
