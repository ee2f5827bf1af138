"""A tenant's certificates: sent, ordered, tried again, deleted."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.selectors.certificates import certificates_of
from apps.deployments.selectors.names import names_held
from apps.deployments.services.certificates import (
    certificate_delete,
    certificate_order,
    certificate_retry,
    certificate_upload,
)
from apps.tenants.models import Tenant
from apps.tenants.permissions import manages_tenant, require_manager, role_in
from apps.tenants.selectors import tenant_visible_to
from portal.web.certificate_forms import OrderForm, SendForm
from portal.web.gate import MemberRequest, member_page

_FIELDS = {"certificates.invalid": "chain", "certificates.name_not_held": "chain", "certificates.taken": "chain"}
_ORDER_FIELDS = {"certificates.name_not_held": "name", "certificates.taken": "name"}


def _page(
    request: MemberRequest,
    tenant: Tenant,
    *,
    send: SendForm | None = None,
    order: OrderForm | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "tenant": tenant,
        "certificates": list(certificates_of(tenant)),
        "names": sorted(name for name in names_held(tenant.pk) if not name.startswith("*.")),
        "ordering": bool(settings.ACME_DIRECTORY_URL),
        "may": manages_tenant(request.user, tenant),
        "role": role_in(request.user, tenant.pk),
        "form": send or SendForm(auto_id="send_%s"),
        "order": order or OrderForm(auto_id="order_%s"),
    }
    return render(request, "web/certificates.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def certificates_page(request: MemberRequest, slug: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    if request.method != "POST":
        return _page(request, tenant)
    require_manager(request.user, tenant)
    form = SendForm(request.POST, auto_id="send_%s")
    if not form.is_valid():
        return _page(request, tenant, send=form, status=400)
    try:
        certificate_upload(tenant=tenant, by=request.user, **form.cleaned_data)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, _FIELDS)
        return _page(request, tenant, send=form, status=error.status)
    messages.success(request, _("The certificate is there. The gateways show it within seconds."))
    return redirect("web:certificates", slug=slug)


@require_POST
@member_page
def certificate_order_now(request: MemberRequest, slug: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    require_manager(request.user, tenant)
    form = OrderForm(request.POST, auto_id="order_%s")
    if not form.is_valid():
        return _page(request, tenant, order=form, status=400)
    try:
        certificate_order(tenant=tenant, by=request.user, **form.cleaned_data)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, _ORDER_FIELDS)
        return _page(request, tenant, order=form, status=error.status)
    messages.success(request, _("The certificate is ordered. It is renewed by itself from then on."))
    return redirect("web:certificates", slug=slug)


@require_POST
@member_page
def certificate_retry_now(request: MemberRequest, slug: str, uid: UUID) -> HttpResponse:
    certificate_retry(tenant=tenant_visible_to(request.user, slug), uid=uid, by=request.user)
    messages.success(request, _("The order is tried again now."))
    return redirect("web:certificates", slug=slug)


@require_POST
@member_page
def certificate_delete_now(request: MemberRequest, slug: str, uid: UUID) -> HttpResponse:
    certificate_delete(tenant=tenant_visible_to(request.user, slug), uid=uid, by=request.user)
    messages.success(request, _("The certificate is deleted."))
    return redirect("web:certificates", slug=slug)
