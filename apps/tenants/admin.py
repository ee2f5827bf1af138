"""Operators' pages for people, tenants and quotas."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from apps.core.admin import save_changed
from apps.tenants.models import ApiToken, Membership, Plan, Quota, Tenant, User
from apps.tenants.services.tenants import quota_from_plan

admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("username", "email", "password1", "password2")}),)
    list_display = ("username", "email", "is_active", "is_staff", "last_login")


class MembershipInline(TabularInline):  # type: ignore[misc]
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)


class ChangedOnly(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    def save_existing(self, form: forms.ModelForm[Any], obj: Any, commit: bool = True) -> Any:
        if commit:
            save_changed(obj, form, change=True)
        return obj


class QuotaInline(TabularInline):  # type: ignore[misc]
    model = Quota
    formset = ChangedOnly
    can_delete = False
    max_num = 0
    readonly_fields = ("memory_mb_used", "cpu_millis_used", "instances_used", "storage_bytes_used")


@admin.register(Plan)
class PlanAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("slug", "name", "memory_mb", "cpu_millis", "instances", "apps", "storage_mb")


@admin.register(Tenant)
class TenantAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("slug", "name", "plan", "is_active", "created_at", "deleting_at")
    list_select_related = ("plan",)
    list_filter = ("is_active", "plan")
    search_fields = ("slug", "name")
    inlines = (QuotaInline, MembershipInline)

    def save_model(self, request: HttpRequest, obj: Tenant, form: forms.ModelForm[Tenant], change: bool) -> None:
        save_changed(obj, form, change)
        quota_from_plan(tenant=obj)


@admin.register(Quota)
class QuotaAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = (
        "tenant",
        "memory_mb",
        "memory_mb_used",
        "cpu_millis",
        "cpu_millis_used",
        "instances",
        "instances_used",
        "storage_mb",
        "storage_bytes_used",
    )
    list_select_related = ("tenant",)
    search_fields = ("tenant__slug",)
    readonly_fields = ("tenant", "memory_mb_used", "cpu_millis_used", "instances_used", "storage_bytes_used")

    def save_model(self, request: HttpRequest, obj: Quota, form: forms.ModelForm[Quota], change: bool) -> None:
        save_changed(obj, form, change)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(ApiToken)
class ApiTokenAdmin(ModelAdmin):  # type: ignore[misc]
    """Tokens can be revoked here; nobody can read or make one for another person."""

    list_display = ("user", "name", "prefix", "created_at", "expires_at", "last_used_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "name", "prefix")
    exclude = ("digest",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False
