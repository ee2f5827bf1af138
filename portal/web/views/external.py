"""A tenant's credentials for registries of others, and copying an image out of one for an app."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.imports import app_import
from apps.registry.services.external import external_create, external_delete
from apps.registry.trying import external_try
from apps.tenants.models import Tenant
from apps.tenants.permissions import Action, manages_tenant, require, require_manager, role_in
from apps.tenants.selectors import tenant_visible_to
from portal.web.forms import Styled
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.texts import CODES

_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
_FIELDS = {"slug.invalid": "name", "host": "host", "external.taken": "host"}
_IMPORT_FIELDS = {"source": "source", "tag": "tag"}


class ExternalForm(Styled, forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=40, widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "company"})
    )
    host = forms.CharField(
        label=gettext_lazy("Registry"),
        max_length=260,
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "registry.example.com"}),
    )
    username = forms.CharField(
        label=gettext_lazy("User name"), max_length=255, strip=False, widget=forms.TextInput(attrs=_PLAIN)
    )
    password = forms.CharField(
        label=gettext_lazy("Password or token"),
        max_length=8000,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class ImportForm(Styled, forms.Form):
    source = forms.CharField(
        label=gettext_lazy("Image"),
        max_length=500,
        help_text=gettext_lazy(
            "With its registry, such as registry.example.com/team/app:1.0 or docker.io/library/redis:7."
        ),
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "registry.example.com/team/app:1.0"}),
    )
    tag = forms.CharField(
        label=gettext_lazy("Version"),
        max_length=128,
        required=False,
        help_text=gettext_lazy("Empty: as it is there."),
        widget=forms.TextInput(attrs=_PLAIN),
    )
    deploy = forms.BooleanField(label=gettext_lazy("Deploy it as soon as it is here"), required=False)


def _page(request: MemberRequest, tenant: Tenant, form: ExternalForm, status: int = 200) -> HttpResponse:
    context = {
        "tenant": tenant,
        "registries": list(tenant.external_registries.all()),
        "may": manages_tenant(request.user, tenant),
        "role": role_in(request.user, tenant.pk),
        "form": form,
    }
    return render(request, "web/external.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def external_page(request: MemberRequest, slug: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    if request.method != "POST":
        return _page(request, tenant, ExternalForm())
    require_manager(request.user, tenant)
    form = ExternalForm(request.POST)
    if not form.is_valid():
        return _page(request, tenant, form, status=400)
    try:
        external_create(tenant=tenant, by=request.user, **form.cleaned_data)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, _FIELDS)
        return _page(request, tenant, form, status=error.status)
    messages.success(request, _("The registry is added. Test it, so that you know that it lets you in."))
    return redirect("web:external", slug=slug)


@require_POST
@member_page
def external_test_now(request: MemberRequest, slug: str, name: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    tried = external_try(tenant=tenant, name=name, by=request.user)
    if tried.test_code:
        messages.error(request, str(CODES[tried.test_code]))
    else:
        messages.success(request, _("The registry lets you in."))
    return redirect("web:external", slug=slug)


@require_POST
@member_page
def external_delete_now(request: MemberRequest, slug: str, name: str) -> HttpResponse:
    external_delete(tenant=tenant_visible_to(request.user, slug), name=name, by=request.user)
    messages.success(request, _("The registry's sign-in is deleted. What was copied stays."))
    return redirect("web:external", slug=slug)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def import_page(request: MemberRequest, slug: str) -> HttpResponse:
    """Ask for a copy. How far it is shows on the page about pushing."""
    app: App = app_visible_to(request.user, slug)
    require(request.user, Action.PUSH, app)
    form, status = ImportForm(request.POST or None), 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                app_import(app=app, by=request.user, **form.cleaned_data)
            except Denied:
                raise
            except BerthError as error:
                form.add_refusal(error, _IMPORT_FIELDS)
                status = error.status
            else:
                return redirect("web:push", slug=slug)
    context = {"app": app, "form": form, "tenant": app.tenant, "rights": Rights.of(request.user, app)}
    return render(request, "web/import.html", context, status=status)
