"""One app: what it is doing, deploy, scale, undeploy."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_safe

from apps.core.errors import BerthError, Denied
from apps.deployments.models import App, Rollout
from apps.deployments.selectors import app_visible_to, queue_position, rollout_of
from apps.deployments.services.apps import AppDeleting
from apps.deployments.services.releases import base_of, path_at_first
from apps.deployments.services.rollouts import rollout_cancel, rollout_start, undeploy
from apps.deployments.services.scaling import app_scale
from apps.tenants.permissions import Action, require
from portal.web.forms import DeployForm, ScaleForm
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import AppLive, Rights, version_tags, wanted_now
from portal.web.texts import explain
from portal.web.variables import variables_of


def _render(
    request: MemberRequest,
    app: App,
    rights: Rights,
    form: DeployForm | None = None,
    scale: ScaleForm | None = None,
    status: int = 200,
    explanation: object = None,
) -> HttpResponse:
    """``explanation`` belongs to the form that was refused."""
    # What a deploy keeps is what it would be made from.
    release = base_of(app) if rights.deploy else None
    if form is None and rights.deploy:
        initial = DeployForm.initial_of(release, wanted_now(app), path_at_first(app))
        form = DeployForm(versions=version_tags(app), initial=initial)
    live = AppLive(app)
    if scale is None and rights.deploy:
        scale = ScaleForm(initial={"scale_to": live.scale})
    context = {
        "app": app,
        "live": live,
        "rights": rights,
        "form": form,
        "scale": scale,
        "explanation": explanation,
        "env_kept": variables_of(release),
        "registry": settings.REGISTRY_PUBLIC,
    }
    return render(request, "web/app.html", context, status=status)


@require_safe
@member_page
def app_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    return _render(request, app, Rights.of(request.user, app))


@require_safe
@member_page
def app_live(request: MemberRequest, slug: str) -> HttpResponse:
    """The parts of the page that change by themselves. Holds no form, so that swapping it disturbs nobody."""
    app = app_visible_to(request.user, slug)
    context = {"app": app, "live": AppLive(app), "rights": Rights.of(request.user, app), "swap": True}
    return render(request, "web/parts/app_live.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def app_deploy(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    if request.method != "POST":
        return redirect("web:app", slug=slug)
    rights = Rights.of(request.user, app)
    if not rights.deploy:
        require(request.user, Action.DEPLOY, app)
    form = DeployForm(request.POST, versions=version_tags(app))
    if not form.is_valid():
        return _render(request, app, rights, form, status=400)
    data = form.cleaned_data
    try:
        rollout = rollout_start(
            app=app,
            version=data["version"],
            by=request.user,
            instances=data["instances"],
            settings_=form.settings(),
            options=form.options(),
        )
    except Denied:
        raise
    except AppDeleting as error:
        messages.error(request, explain(error))
        return redirect("web:app", slug=slug)
    except BerthError as error:
        form.add_refusal(error, form.refusals())
        kept = error.extra.get("explanation")
        return _render(request, app, rights, form, status=error.status, explanation=kept)
    if rollout.status == Rollout.Status.PENDING:
        words = ngettext(
            "Rollout %(number)d waits behind %(before)d other.",
            "Rollout %(number)d waits behind %(before)d others.",
            before := queue_position(rollout) or 1,
        )
        messages.success(request, words % {"number": rollout.number, "before": before})
    else:
        words = _("Rollout %(number)d has begun: version %(version)s.")
        messages.success(request, words % {"number": rollout.number, "version": data["version"]})
    return redirect("web:app", slug=slug)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def scale(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    if request.method != "POST":
        return redirect("web:app", slug=slug)
    rights = Rights.of(request.user, app)
    if not rights.deploy:
        require(request.user, Action.DEPLOY, app)
    form = ScaleForm(request.POST)
    if not form.is_valid():
        return _render(request, app, rights, scale=form, status=400)
    wanted = form.cleaned_data["scale_to"]
    try:
        app_scale(app=app, instances=wanted, by=request.user)
    except Denied:
        raise
    except AppDeleting as error:
        messages.error(request, explain(error))
        return redirect("web:app", slug=slug)
    except BerthError as error:
        form.add_refusal(error, ScaleForm.REFUSALS)
        kept = error.extra.get("explanation")
        return _render(request, app, rights, scale=form, status=error.status, explanation=kept)
    if wanted:
        words = ngettext(
            "%(n)d instance of %(app)s is wanted now.", "%(n)d instances of %(app)s are wanted now.", wanted
        )
    else:
        words = _("%(app)s goes to sleep: no instance is wanted now.")
    messages.success(request, words % {"app": app.slug, "n": wanted})
    return redirect("web:app", slug=slug)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def rollout_cancel_page(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    """GET asks whether it is meant; POST does it."""
    app = app_visible_to(request.user, slug)
    require(request.user, Action.DEPLOY, app)
    rollout = rollout_of(app, number)
    if request.method != "POST":
        return render(request, "web/rollout_cancel.html", {"app": app, "rollout": rollout, "live": AppLive(app)})
    try:
        rollout_cancel(app=app, number=number, by=request.user)
    except Denied:
        raise
    except BerthError as error:
        messages.error(request, explain(error))
    else:
        messages.success(request, _("Rollout %(number)d is cancelled.") % {"number": number})
    return redirect("web:app", slug=slug)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def app_undeploy(request: MemberRequest, slug: str) -> HttpResponse:
    """GET asks whether it is meant; POST does it."""
    app = app_visible_to(request.user, slug)
    require(request.user, Action.DEPLOY, app)
    if request.method != "POST":
        return render(request, "web/undeploy.html", {"app": app, "live": AppLive(app)})
    try:
        undeploy(app=app, by=request.user)
    except Denied:
        raise
    except BerthError as error:
        messages.error(request, explain(error))
    else:
        messages.success(request, _("%(app)s is being taken down.") % {"app": app.slug})
    return redirect("web:app", slug=slug)
