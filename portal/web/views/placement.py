"""Where an app would run, asked now or kept from a refused deploy."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from apps.core.errors import BerthError, Denied, Missing
from apps.deployments.api.placements import ExplainThrottle
from apps.deployments.models import App, Release
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.explain import (
    ExplanationMissing,
    explain,
    explanation_visible_to,
    explanations_visible_to,
    stored_plain,
)
from apps.deployments.services.releases import base_of
from portal.web.gate import MemberRequest, member_page
from portal.web.placement import Answer, PlacementForm, query_of
from portal.web.queries import wanted_now

KEPT_SHOWN = 5


def _last(app: App) -> Release:
    """What a deploy would begin with."""
    return base_of(app) or Release()


@require_safe
@member_page
def placement_page(request: MemberRequest, slug: str) -> HttpResponse:
    """The form is sent by GET: it changes nothing, and its address can be passed on."""
    app = app_visible_to(request.user, slug)
    last = _last(app)
    asked = any(name in request.GET for name in PlacementForm.base_fields)
    form = PlacementForm(request.GET) if asked else PlacementForm(initial=_initial(app, last))
    answer, status = None, 200
    # Of the request it reads the user, and nothing of a view.
    throttled = asked and not ExplainThrottle().allow_request(request, None)  # type: ignore[arg-type]
    if throttled and form.is_valid():
        form.add_error(None, _("Too many dry runs within a minute. Wait a little, then ask again."))
    elif form.is_valid():
        try:
            plain = explain(app, viewer=request.user, **form.asked(last.placement), new_release=True).plain()
            answer = Answer(plain, app=app, viewer=request.user)
        except (Denied, Missing):
            raise
        except BerthError as error:
            form.add_refusal(error, PlacementForm.REFUSALS)
    if form.errors:
        status = 429 if throttled else 400
    kept = explanations_visible_to(request.user).filter(app=app).order_by("-pk")[:KEPT_SHOWN]
    context = {"app": app, "form": form, "answer": answer, "kept": kept}
    return render(request, "web/placement.html", context, status=status)


def _initial(app: App, last: Release) -> dict[str, object]:
    return PlacementForm.initial_of(last, wanted_now(app))


@require_safe
@member_page
def explanation_page(request: MemberRequest, slug: str, pk: int) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    explanation = explanation_visible_to(request.user, pk)
    if explanation.app_id != app.pk:
        raise ExplanationMissing("This app has no such explanation.")
    context = {
        "app": app,
        "explanation": explanation,
        "answer": Answer(stored_plain(explanation), app=app, viewer=request.user),
        "again": query_of(explanation.request),
    }
    return render(request, "web/explanation.html", context)
