"""The list of apps, and a new one."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from apps.core.errors import BerthError, Denied
from apps.deployments.services.apps import app_create
from apps.tenants.selectors import tenants_visible_to
from portal.web.forms import AppForm
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import app_row, app_rows, creatable_in

APPS_PER_PAGE = 50


def _listed(request: MemberRequest) -> dict[str, Any]:
    page = Paginator(app_rows(request.user), APPS_PER_PAGE).get_page(request.GET.get("page"))
    return {"page": page, "rows": [app_row(app) for app in page.object_list]}


@require_safe
@member_page
def apps_list(request: MemberRequest) -> HttpResponse:
    return render(
        request,
        "web/apps.html",
        {
            **_listed(request),
            "tenants": list(tenants_visible_to(request.user)),
            "may_create": bool(creatable_in(request.user)),
        },
    )


@require_safe
@member_page
def apps_live(request: MemberRequest) -> HttpResponse:
    """The list's table, which asks for itself again every few seconds."""
    return render(request, "web/parts/apps_table.html", _listed(request))


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def app_new(request: MemberRequest) -> HttpResponse:
    tenants = creatable_in(request.user)
    if not tenants:
        raise Denied("You may not create apps in any tenant.")
    status = 200
    form = AppForm(request.POST or None, tenants=tenants, initial={"tenant": tenants[0].slug})
    if request.method == "POST":
        status = 400
        if form.is_valid():
            tenant, slug = form.cleaned_data["tenant"], form.cleaned_data["slug"]
            try:
                app = app_create(
                    tenant=tenant, slug=slug, by=request.user, protocol=form.cleaned_data["protocol"] or "http"
                )
            except Denied:
                raise
            except BerthError as error:
                form.add_refusal(error, {"slug.invalid": "slug", "slug.taken": "slug"})
                status = error.status
            else:
                return redirect("web:app", slug=app.slug)
    context = {"form": form, "one_tenant": len(tenants) == 1, "domain": settings.PLATFORM_DOMAIN}
    return render(request, "web/app_new.html", context, status=status)
