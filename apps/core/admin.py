"""What operators may read but never change by hand."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.core.models import Duty, Event, FailedSignIns


def save_changed(obj: Model, form: ModelForm[Any], change: bool) -> None:
    """Save what the operator changed and nothing else: the loop writes the other columns at the same time."""
    obj.save(update_fields=[name for name in form.changed_data if name != "id"] if change else None)


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("at", "level", "code", "message", "actor", "tenant_id", "app_id", "host_id")
    list_filter = ("level",)
    search_fields = ("code", "message", "actor")
    show_full_result_count = False


@admin.register(Duty)
class DutyAdmin(ReadOnlyAdmin):
    list_display = ("name", "done_at", "lease_until")


@admin.register(FailedSignIns)
class FailedSignInsAdmin(ReadOnlyAdmin):
    """Deleting a row ends its wait."""

    list_display = ("door", "scope", "address", "count", "last_at", "locked_until")
    list_filter = ("door", "scope")
    search_fields = ("address",)

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return request.user.has_perm("core.delete_failedsignins")
