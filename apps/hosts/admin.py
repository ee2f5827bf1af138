"""Operators' pages for clusters and hosts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.core.admin import ReadOnlyAdmin, save_changed
from apps.hosts.models import Allocation, Cluster, Host, PortAllocation
from apps.hosts.services.hosts import host_look


class HostForm(forms.ModelForm):  # type: ignore[type-arg]
    """The private key is write-only: it is never shown, and an empty field keeps the one that is stored."""

    tls_key = forms.CharField(required=False, widget=forms.Textarea(attrs={"autocomplete": "off"}))

    class Meta:
        model = Host
        fields = (
            "cluster",
            "name",
            "address",
            "engine_url",
            "tls_ca",
            "tls_certificate",
            "tls_key",
            "labels",
            "dedicated_to",
            "memory_mb",
            "cpu_millis",
            "memory_mb_reserve",
            "cpu_millis_reserve",
            "port_min",
            "port_max",
            "availability",
        )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.initial["tls_key"] = ""

    def clean_tls_key(self) -> str:
        return str(self.cleaned_data["tls_key"] or self.instance.tls_key)

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        material = [values.get(name) for name in ("tls_ca", "tls_certificate", "tls_key")]
        if str(values.get("engine_url", "")).startswith("https://") and not all(material):
            raise forms.ValidationError("An engine at https:// needs all three: authority, certificate and key.")
        return values


@admin.register(Cluster)
class ClusterAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("slug", "name", "kind", "is_default")


@admin.register(Host)
class HostAdmin(ModelAdmin):  # type: ignore[misc]
    form = HostForm
    list_display = (
        "name",
        "cluster",
        "status",
        "availability",
        "address",
        "memory_mb_claimed",
        "memory_mb",
        "cpu_millis_claimed",
        "cpu_millis",
        "last_seen_at",
        "last_error",
    )
    list_select_related = ("cluster",)
    list_filter = ("status", "availability", "cluster")
    search_fields = ("name", "address")
    readonly_fields = (
        "generation",
        "memory_mb_claimed",
        "cpu_millis_claimed",
        "engine_version",
        "last_seen_at",
        "last_error",
    )

    def get_fields(self, request: HttpRequest, obj: Host | None = None) -> list[str]:
        """Whoever may only look gets no form, and so no field that keeps the key to itself."""
        fields = [str(name) for name in super().get_fields(request, obj)]
        return fields if self.has_change_permission(request, obj) else [one for one in fields if one != "tls_key"]

    def save_model(self, request: HttpRequest, obj: Host, form: forms.ModelForm[Host], change: bool) -> None:
        save_changed(obj, form, change)
        host_look(host=obj)


@admin.register(Allocation)
class AllocationAdmin(ReadOnlyAdmin):
    list_display = ("owner", "host", "memory_mb", "cpu_millis", "created_at")
    list_select_related = ("host",)
    search_fields = ("owner", "host__name")


@admin.register(PortAllocation)
class PortAllocationAdmin(ReadOnlyAdmin):
    list_display = ("host", "port", "protocol", "status", "owner", "freed_at")
    list_select_related = ("host",)
    list_filter = ("status",)
    search_fields = ("port", "owner", "host__name")
