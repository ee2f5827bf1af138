"""What the registry holds: repositories, an app's versions, and what pushes deploy."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from apps.core.errors import BerthError, Denied
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.catalogue import (
    detail_of,
    facts_of,
    repositories_visible_to,
    repository_facts,
    version_found,
    versions_listed,
)
from apps.deployments.services.pushes import deploy_on_push_set
from apps.deployments.services.versions import version_delete
from apps.tenants.permissions import Action, require
from apps.tenants.selectors import quota_of, tenant_visible_to, tenants_visible_to
from portal.web.cleanup import Storage
from portal.web.forms import PushForm
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.texts import explain

PER_PAGE = 50


@require_safe
@member_page
def registry_page(request: MemberRequest) -> HttpResponse:
    """``?tenant=``: only that one's."""
    slug = request.GET.get("tenant", "")
    tenant = tenant_visible_to(request.user, slug) if slug else None
    page = Paginator(repositories_visible_to(request.user, slug), PER_PAGE).get_page(request.GET.get("page"))
    tenants = list(tenants_visible_to(request.user))
    shown = tenant or (tenants[0] if len(tenants) == 1 else None)
    context = {
        "page": page,
        "rows": repository_facts(list(page.object_list)),
        "tenant": tenant,
        "tenants": tenants,
        "storage": Storage.of(quota_of(shown.pk)) if shown else None,
    }
    return render(request, "web/registry.html", context)


@require_safe
@member_page
def versions_page(request: MemberRequest, slug: str) -> HttpResponse:
    """``?replaced=1``: also what tags named before."""
    app = app_visible_to(request.user, slug)
    replaced = bool(request.GET.get("replaced"))
    page = Paginator(versions_listed(app, replaced=replaced), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "app": app,
        "page": page,
        "rows": facts_of(list(page.object_list)),
        "replaced": replaced,
        "rights": Rights.of(request.user, app),
    }
    return render(request, "web/versions.html", context)


@require_safe
@member_page
def version_page(request: MemberRequest, slug: str, tag: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    detail = detail_of(version_found(app, tag, request.GET.get("digest", "")))
    context = {"app": app, "detail": detail, "facts": detail.facts, "rights": Rights.of(request.user, app)}
    return render(request, "web/version.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def version_delete_page(request: MemberRequest, slug: str, tag: str) -> HttpResponse:
    """GET asks whether it is meant, or says who uses it; POST does it."""
    app = app_visible_to(request.user, slug)
    require(request.user, Action.MANAGE, app)
    version = version_found(app, tag, request.GET.get("digest", ""))
    status = 200
    if request.method == "POST":
        try:
            version_delete(app=app, version=version, by=request.user)
        except Denied:
            raise
        except BerthError as error:
            messages.error(request, explain(error))
            status = error.status
        else:
            messages.success(request, _("Version %(tag)s is being deleted.") % {"tag": version.tag})
            return redirect("web:versions", slug=slug)
    (facts,) = facts_of([version])
    return render(request, "web/version_delete.html", {"app": app, "facts": facts}, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def push_page(request: MemberRequest, slug: str) -> HttpResponse:
    """What pushes deploy. The form stands on the versions' page, too; what is refused is shown here."""
    app = app_visible_to(request.user, slug)
    require(request.user, Action.DEPLOY, app)
    form, status = PushForm(initial={"deploy_on_push": app.deploy_on_push}), 200
    if request.method == "POST":
        form, status = PushForm(request.POST), 400
        if form.is_valid():
            pattern = form.cleaned_data["deploy_on_push"]
            try:
                deploy_on_push_set(app=app, pattern=pattern, by=request.user)
            except Denied:
                raise
            except BerthError as error:
                form.add_refusal(error, {"deploy_on_push": "deploy_on_push"})
                status = error.status
            else:
                words = _("Tags that match %(pattern)s are deployed when they are pushed.") if pattern else None
                messages.success(request, words % {"pattern": pattern} if words else _("Pushes deploy nothing."))
                return redirect("web:app", slug=slug)
    return render(request, "web/on_push.html", {"app": app, "form": form}, status=status)
