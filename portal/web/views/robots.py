"""A tenant's robot accounts: every member sees them, owners and admins make, renew and delete them."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.selectors import apps_of_tenant
from apps.registry.models import Robot
from apps.registry.selectors import robots_of
from apps.registry.services.robots import robot_create, robot_delete, robot_renew
from apps.tenants.models import Tenant
from apps.tenants.permissions import manages_tenant, require_manager, role_in
from apps.tenants.selectors import tenant_visible_to
from portal.web.gate import MemberRequest, member_page
from portal.web.robot_forms import RobotForm

FIELDS = {
    "robots.name_taken": "name",
    "slug.invalid": "name",
    "actions": "actions",
    "app": "app",
    "expires_at": "expires",
}


def _form(tenant: Tenant, data: object = None) -> RobotForm:
    slugs = [app.slug for app in apps_of_tenant(tenant.pk)]
    return RobotForm(data, apps=slugs)


def _render(
    request: MemberRequest, tenant: Tenant, form: RobotForm, made: tuple[Robot, str] | None = None, status: int = 200
) -> HttpResponse:
    robot, secret = made or (None, "")
    context = {
        "tenant": tenant,
        "robots": list(robots_of(tenant)),
        "may": manages_tenant(request.user, tenant),
        "role": role_in(request.user, tenant.pk),
        "form": form,
        "made": robot,
        "secret": secret,
        "registry": settings.REGISTRY_PUBLIC,
    }
    return render(request, "web/robots.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def robots_page(request: MemberRequest, slug: str) -> HttpResponse:
    """The answer to the POST is the only place where the secret ever stands: no redirect, so nothing keeps it."""
    tenant = tenant_visible_to(request.user, slug)
    if request.method != "POST":
        return _render(request, tenant, _form(tenant))
    require_manager(request.user, tenant)
    form = _form(tenant, request.POST)
    if not form.is_valid():
        return _render(request, tenant, form, status=400)
    data = form.cleaned_data
    try:
        made = robot_create(
            tenant=tenant,
            by=request.user,
            name=data["name"],
            actions=data["actions"],
            app=data["app"],
            expires_at=form.expires_at(),
        )
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, FIELDS)
        return _render(request, tenant, form, status=error.status)
    return _render(request, tenant, _form(tenant), made, status=201)


@require_POST
@member_page
def robot_renew_now(request: MemberRequest, slug: str, name: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    made = robot_renew(tenant=tenant, by=request.user, name=name)
    return _render(request, tenant, _form(tenant), made, status=201)


@require_POST
@member_page
def robot_delete_now(request: MemberRequest, slug: str, name: str) -> HttpResponse:
    tenant = tenant_visible_to(request.user, slug)
    robot_delete(tenant=tenant, by=request.user, name=name)
    messages.success(request, _("The robot is deleted. Whatever used it is signed out now."))
    return redirect("web:robots", slug=slug)
