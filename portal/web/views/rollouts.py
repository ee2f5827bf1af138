"""One rollout: its page, and what can be done with it. (Cancel, which asks first, is in ``app``.)"""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST, require_safe

from apps.core.errors import BerthError, Denied, Missing
from apps.deployments.models import App, Rollout
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.rollouts import rollout_continue, rollout_pause
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.rollouts import RolloutPage, rollout_to_show
from portal.web.texts import explain

#: htmx stops asking when it gets this status; to everything else it is a success like 200.
HTMX_STOP = 286


def _context(request: MemberRequest, app: App, number: int) -> dict[str, object]:
    return {"app": app, "page": RolloutPage(rollout_to_show(app, number)), "rights": Rights.of(request.user, app)}


@require_safe
@member_page
def rollout_page(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    return render(request, "web/rollout.html", _context(request, app, number))


@require_safe
@member_page
def rollout_live(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    """The part of the page that changes by itself. Its buttons belong to a form outside of it."""
    app = app_visible_to(request.user, slug)
    context = _context(request, app, number)
    page = context["page"]
    ended = isinstance(page, RolloutPage) and not page.open
    return render(request, "web/parts/rollout_live.html", context, status=HTMX_STOP if ended else 200)


@require_POST
@member_page
def rollout_pause_now(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    return _done(request, slug, number, rollout_pause, _("Rollout %(number)d is paused."))


@require_POST
@member_page
def rollout_continue_now(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    return _done(request, slug, number, rollout_continue, _("Rollout %(number)d goes on."))


def _done(
    request: MemberRequest, slug: str, number: int, act: Callable[..., Rollout], words: str | Promise
) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    try:
        act(app=app, number=number, by=request.user)
    except (Denied, Missing):
        raise
    except BerthError as error:
        messages.error(request, explain(error))
    else:
        messages.success(request, str(words) % {"number": number})
    return redirect("web:rollout", slug=slug, number=number)
