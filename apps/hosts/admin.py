"""Operators' pages for clusters, hosts, and the tokens with which machines join."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ObjectDoesNotExist
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from apps.core.admin import ReadOnlyAdmin, save_changed
from apps.core.clock import now
from apps.hosts.models import Allocation, Authority, Cluster, Host, JoinToken, PortAllocation
from apps.hosts.operators import CHANGE_HOSTS, MAKE_TOKENS, REMOVE_HOSTS, REVOKE_TOKENS
from apps.hosts.samples import fresh_samples
from apps.hosts.services.hosts import (
    HostInUse,
    cluster_changed,
    host_look,
    host_remove,
    host_set_availability,
    ratios,
)
from apps.hosts.services.joining import MAX_VALID_S, VALID_S, join_token_create, join_token_revoke
from apps.hosts.services.onboarding import join_command
from apps.tenants.permissions import operates, person

_SHOWN_INSTANCES = 5


class HostForm(forms.ModelForm):  # type: ignore[type-arg]
    """The private key is write-only: it is never shown, and an empty field keeps the one that is stored."""

    tls_key = forms.CharField(
        label="TLS key",
        required=False,
        help_text="PEM of the client certificate's key. It is never shown; empty keeps the stored one.",
        widget=UnfoldAdminTextareaWidget(attrs={"autocomplete": "off", "rows": 4}),
    )

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
        labels = {
            "engine_url": "Engine",
            "tls_ca": "TLS authority",
            "tls_certificate": "TLS certificate",
            "memory_mb": "Memory (MiB)",
            "cpu_millis": "CPU (thousandths of a core)",
            "memory_mb_reserve": "Memory reserve (MiB)",
            "cpu_millis_reserve": "CPU reserve (thousandths of a core)",
            "port_min": "First port",
            "port_max": "Last port",
        }

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


class Removed(admin.SimpleListFilter):
    """Removed hosts stay for the sake of history, and out of the way unless they are asked for."""

    title = "removed hosts"
    parameter_name = "removed"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("shown", "Shown"), ("only", "Only these")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        for number, one in enumerate(super().choices(changelist)):
            yield {**one, "display": one["display"] if number else "Hidden"}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Host]) -> QuerySet[Host]:
        if self.value() == "shown":
            return queryset
        gone = {"status": Host.Status.REMOVED}
        return queryset.filter(**gone) if self.value() == "only" else queryset.exclude(**gone)


@admin.register(Cluster)
class ClusterAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("slug", "name", "kind", "is_default", "memory_overcommit", "cpu_overcommit", "evictions_stopped_at")
    readonly_fields = ("evictions_stopped_at",)

    def save_model(self, request: HttpRequest, obj: Cluster, form: forms.ModelForm[Cluster], change: bool) -> None:
        save_changed(obj, form, change)
        cluster_changed(cluster=obj)


@admin.register(Host)
class HostAdmin(ModelAdmin):  # type: ignore[misc]
    form = HostForm
    list_display = (
        "name",
        "cluster",
        "zone",
        "seen",
        "service",
        "address",
        "memory_claimed",
        "cpu_claimed",
        "measured",
        "last_seen_at",
        "last_error",
        "certificate_until",
    )
    list_select_related = ("cluster", "identity")
    list_filter = (Removed, "status", "availability", "disk_pressure", "cluster")
    search_fields = ("name", "address")
    readonly_fields = (
        "status",
        "generation",
        "memory_mb_capacity",
        "memory_mb_claimed",
        "cpu_millis_capacity",
        "cpu_millis_claimed",
        "measured",
        "disk_pressure",
        "certificate_until",
        "engine_version",
        "os",
        "architecture",
        "last_seen_at",
        "last_error",
    )
    actions = ("cordon", "drain", "uncordon", "remove")
    actions_list = ("join",)

    def get_fields(self, request: HttpRequest, obj: Host | None = None) -> list[str]:
        """Whoever may only look gets no form, and so no field that keeps the key to itself. A host that joined has no
        TLS texts of its own.
        """
        fields = [str(name) for name in super().get_fields(request, obj)]
        hidden: set[str] = set()
        if obj is not None and _joined(obj):
            hidden = {"tls_ca", "tls_certificate", "tls_key"}
        elif not self.has_change_permission(request, obj):
            hidden = {"tls_key"}
        return [one for one in fields if one not in hidden]

    def get_readonly_fields(self, request: HttpRequest, obj: Host | None = None) -> tuple[str, ...]:
        """A joined host's certificate is for this name and this address."""
        fixed = ("name", "address", "engine_url") if obj is not None and _joined(obj) else ()
        return (*self.readonly_fields, *fixed)

    def save_model(self, request: HttpRequest, obj: Host, form: forms.ModelForm[Host], change: bool) -> None:
        if change and "availability" in form.changed_data:
            host_set_availability(host=obj, availability=obj.availability, by=person(request.user).get_username())
        save_changed(obj, form, change)
        # A placement that read the host before this looks at it again.
        Host.objects.filter(pk=obj.pk).update(**ratios(obj.cluster), generation=F("generation") + 1)
        host_look(host=obj)

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        """A row that is deleted takes the history with it, and says nothing of what still runs there: see "remove"."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return operates(request.user, CHANGE_HOSTS)

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return operates(request.user, REMOVE_HOSTS)

    def has_join_permission(self, request: HttpRequest) -> bool:
        return operates(request.user, MAKE_TOKENS)

    @action(description="Join a machine", url_path="join", permissions=["join"])  # type: ignore[untyped-decorator]
    def join(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:hosts_jointoken_add"))

    @display(  # type: ignore[untyped-decorator]
        description="status",
        ordering="status",
        label={"Ready": "success", "Joining": "info", "Suspect": "warning", "Down": "danger"},
    )
    def seen(self, host: Host) -> str:
        return host.get_status_display()

    @display(  # type: ignore[untyped-decorator]
        description="in service",
        ordering="availability",
        label={"Active": "success", "Cordoned": "warning", "Draining": "warning", "Disk nearly full": "danger"},
    )
    def service(self, host: Host) -> str:
        return "Disk nearly full" if host.disk_pressure else host.get_availability_display()

    @admin.display(description="memory claimed")
    def memory_claimed(self, host: Host) -> str:
        return f"{host.memory_mb_claimed} of {host.memory_mb_capacity} MiB"

    @admin.display(description="CPU claimed")
    def cpu_claimed(self, host: Host) -> str:
        return f"{host.cpu_millis_claimed} of {host.cpu_millis_capacity}"

    @admin.display(description="measured")
    def measured(self, host: Host) -> str:
        found = fresh_samples(host)
        if found is None:
            return "-"
        return f"idle: CPU {found.cpu_millis_idle}, {found.memory_mb_idle} MiB; disk: {found.disk_mb_idle} MiB left"

    @admin.display(description="certificate until")
    def certificate_until(self, host: Host) -> datetime | None:
        return host.identity.certificate_expires_at if _joined(host) else None

    @admin.action(description="Cordon: place nothing more there", permissions=["operate"])
    def cordon(self, request: HttpRequest, queryset: QuerySet[Host]) -> None:
        self._set(request, queryset, Host.Availability.CORDONED, "cordoned")

    @admin.action(description="Drain: move away what runs there", permissions=["operate"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Host]) -> None:
        self._set(request, queryset, Host.Availability.DRAINING, "draining")

    @admin.action(description="Uncordon: take back into service", permissions=["operate"])
    def uncordon(self, request: HttpRequest, queryset: QuerySet[Host]) -> None:
        self._set(request, queryset, Host.Availability.ACTIVE, "active again")

    @admin.action(description="Remove: forget hosts that are empty", permissions=["remove"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Host]) -> None:
        by = person(request.user).get_username()
        for host in queryset.exclude(status=Host.Status.REMOVED):
            try:
                host_remove(host=host, by=by)
            except HostInUse as error:
                held: Any = error.extra["instances"]
                more = " …" if len(held) > _SHOWN_INSTANCES else ""
                self.message_user(
                    request, f"{error.detail} Held by: {', '.join(held[:_SHOWN_INSTANCES])}{more}", messages.ERROR
                )
            else:
                self.message_user(request, f"{host.name} is removed.", messages.SUCCESS)

    def _set(self, request: HttpRequest, hosts: QuerySet[Host], availability: str, word: str) -> None:
        by = person(request.user).get_username()
        count = sum(host_set_availability(host=host, availability=availability, by=by) for host in hosts)
        self.message_user(request, f"{count} hosts are now {word}.", messages.SUCCESS)


def _joined(host: Host) -> bool:
    """Whether it joined with a token, and so reports and has a certificate of the platform's authority."""
    try:
        return host.identity is not None
    except ObjectDoesNotExist:
        return False


class JoinTokenForm(forms.ModelForm):  # type: ignore[type-arg]
    valid_minutes = forms.IntegerField(
        min_value=1,
        max_value=MAX_VALID_S // 60,
        initial=VALID_S // 60,
        help_text="how long the command may be used",
        widget=UnfoldAdminIntegerFieldWidget,
    )

    class Meta:
        model = JoinToken
        fields = ("cluster", "labels", "memory_mb_reserve", "cpu_millis_reserve")
        labels = {
            "memory_mb_reserve": "Memory reserve (MiB)",
            "cpu_millis_reserve": "CPU reserve (thousandths of a core)",
        }


@admin.register(JoinToken)
class JoinTokenAdmin(ModelAdmin):  # type: ignore[misc]
    """A token is made here and never changed: the page that answers shows the command, once."""

    form = JoinTokenForm
    list_display = ("prefix", "cluster", "state", "created_by", "created_at", "expires_at", "used_at", "host")
    list_select_related = ("cluster", "created_by", "host")
    search_fields = ("prefix", "host__name", "created_by__username")
    actions = ("revoke",)
    _asked = ("cluster", "valid_minutes", "labels", "memory_mb_reserve", "cpu_millis_reserve")
    _known = (
        *("prefix", "cluster", "state", "labels", "memory_mb_reserve", "cpu_millis_reserve"),
        *("created_by", "created_at", "expires_at", "used_at", "revoked_at", "host"),
    )

    def get_fields(self, request: HttpRequest, obj: JoinToken | None = None) -> tuple[str, ...]:
        return self._asked if obj is None else self._known

    def get_readonly_fields(self, request: HttpRequest, obj: JoinToken | None = None) -> tuple[str, ...]:
        return () if obj is None else self._known

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        default = Cluster.objects.filter(is_default=True).first()
        return {**super().get_changeform_initial_data(request), **({"cluster": default.pk} if default else {})}

    def save_model(self, request: HttpRequest, obj: JoinToken, form: forms.ModelForm[JoinToken], change: bool) -> None:
        asked = dict(form.cleaned_data)
        minutes = asked.pop("valid_minutes")
        token, secret = join_token_create(by=person(request.user), valid_s=minutes * 60, **asked)
        # The secret is on this object for the length of this request, and in no column.
        vars(obj).update(id=token.pk, prefix=token.prefix, expires_at=token.expires_at, secret=secret)

    def response_add(self, request: HttpRequest, obj: JoinToken, post_url_continue: str | None = None) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Join command",
            "opts": self.opts,
            "token": obj,
            "command": join_command(vars(obj)["secret"]),
        }
        return TemplateResponse(request, "admin/hosts/jointoken/created.html", context)

    def has_change_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return operates(request.user, REVOKE_TOKENS)

    @admin.display(description="state")
    def state(self, token: JoinToken) -> str:
        return token.state(now())

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[JoinToken]) -> None:
        by = person(request.user).get_username()
        count = sum(join_token_revoke(token=token, by=by) for token in queryset)
        self.message_user(request, f"{count} tokens are revoked.", messages.SUCCESS)


@admin.register(Authority)
class AuthorityAdmin(ReadOnlyAdmin):
    """When certificates end. Keys are on no page."""

    list_display = ("name", "expires_at", "client_expires_at", "created_at")
    fields = ("name", "certificate", "expires_at", "client_certificate", "client_expires_at", "created_at")


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
