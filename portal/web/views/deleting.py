"""Deleting an app or a tenant: GET says what goes, POST takes the name typed and begins."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from apps.core.errors import BerthError, Denied
from apps.deployments.selectors import app_visible_to, apps_of_tenant
from apps.deployments.services.deleting import Going, app_delete, dedicated_hosts, tenant_delete
from apps.tenants.permissions import Action, require, require_owner
from apps.tenants.selectors import memberships_of, tenant_visible_to
from portal.web.forms import ConfirmForm, TenantDeleteForm
from portal.web.gate import MemberRequest, member_page


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def app_delete_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    require(request.user, Action.MANAGE, app)
    if app.deleting_at is not None:
        return redirect("web:app", slug=slug)
    status, form = 200, ConfirmForm()
    if request.method == "POST":
        status = 400
        form = ConfirmForm(request.POST)
        if form.is_valid():
            try:
                app_delete(app=app, by=request.user, confirm=form.cleaned_data["confirm"])
            except Denied:
                raise
            except BerthError as error:
                form.add_confirm_refusal(error)
                status = error.status
            else:
                messages.success(request, _("%(app)s is being deleted.") % {"app": app.slug})
                return redirect("web:app", slug=slug)
    return render(request, "web/app_delete.html", {"app": app, "going": Going.of(app), "form": form}, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def tenant_delete_page(request: MemberRequest, slug: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    require_owner(request.user, tenant)
    if tenant.deleting_at is not None:
        return redirect("web:account")
    apps = list(apps_of_tenant(tenant.pk))
    status, form = 200, TenantDeleteForm()
    if request.method == "POST":
        status = 400
        form = TenantDeleteForm(request.POST)
        if form.is_valid():
            try:
                tenant_delete(tenant=tenant, by=request.user, **form.cleaned_data)
            except Denied:
                raise
            except BerthError as error:
                form.add_confirm_refusal(error)
                status = error.status
            else:
                messages.success(request, _("%(tenant)s is being deleted.") % {"tenant": tenant.name})
                return redirect("web:account")
    context = {
        "tenant": tenant,
        "apps": apps,
        "members": memberships_of(tenant).count(),
        "hosts": len(dedicated_hosts(tenant)),
        "form": form,
    }
    return render(request, "web/tenant_delete.html", context, status=status)
