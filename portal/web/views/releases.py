"""An app's releases: the list, what differs between two of them, and the way back to one."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from apps.core.errors import BerthError, Denied, Missing
from apps.deployments.models import App, Release
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.diffing import release_diff
from apps.deployments.services.releases import base_of
from apps.deployments.services.rollouts import ReleaseMissing, rollback_start, rollback_target
from apps.tenants.permissions import Action, require
from portal.web.changes import rows_of
from portal.web.forms import RollbackForm
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights, wanted_now
from portal.web.releases import RELEASES_PER_PAGE, release_rows, releases_to_list, runs

#: In the choice of what to compare.
RELEASES_OFFERED = 200


@require_safe
@member_page
def releases_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    page = Paginator(releases_to_list(app), RELEASES_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "app": app,
        "page": page,
        "rows": release_rows(app, list(page.object_list)),
        "rights": Rights.of(request.user, app),
    }
    return render(request, "web/releases.html", context)


@require_safe
@member_page
def release_diff_page(request: MemberRequest, slug: str) -> HttpResponse:
    """``?old=&new=``; left out, the two newest are compared."""
    app = app_visible_to(request.user, slug)
    numbers = list(app.releases.order_by("-number").values_list("number", flat=True)[:RELEASES_OFFERED])
    if not numbers:
        raise ReleaseMissing(f"{slug} has no release yet.")
    new = rollback_target(app, _number(request, "new", numbers[0]))
    old = rollback_target(app, _number(request, "old", next((one for one in numbers if one < new.number), new.number)))
    context = {
        "app": app,
        "old": old,
        "new": new,
        "changes": rows_of(release_diff(old=old, new=new)),
        "numbers": sorted({*numbers, old.number, new.number}, reverse=True),
        "rights": Rights.of(request.user, app),
    }
    return render(request, "web/release_diff.html", context)


def _number(request: MemberRequest, name: str, default: int) -> int:
    asked = request.GET.get(name, "")
    if not asked:
        return default
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10):
        raise ReleaseMissing("There is no release of that number.")
    return int(asked)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def rollback_page(request: MemberRequest, slug: str, number: int) -> HttpResponse:
    """GET shows what would change and asks; POST does it."""
    app = app_visible_to(request.user, slug)
    require(request.user, Action.DEPLOY, app)
    target = rollback_target(app, number)
    if request.method != "POST":
        instances = None if target.is_global else wanted_now(app) or 1
        return _asked(request, app, target, RollbackForm(initial={"instances": instances}))
    form = RollbackForm(request.POST)
    if not form.is_valid():
        return _asked(request, app, target, form, status=400)
    try:
        rollout = rollback_start(
            app=app,
            release=number,
            by=request.user,
            instances=form.cleaned_data["instances"],
            options=form.options(),
        )
    except (Denied, Missing):
        raise
    except BerthError as error:
        form.add_refusal(error, RollbackForm.REFUSALS)
        return _asked(request, app, target, form, status=error.status)
    words = _("Rollout %(number)d takes the app back to what release %(release)d had.")
    messages.success(request, words % {"number": rollout.number, "release": number})
    return redirect("web:rollout", slug=slug, number=rollout.number)


def _asked(request: MemberRequest, app: App, target: Release, form: RollbackForm, status: int = 200) -> HttpResponse:
    present = base_of(app) or target
    changes = rows_of(release_diff(old=present, new=target))
    context = {
        "app": app,
        "target": target,
        "present": present,
        "changes": changes,
        "runs": runs(present),
        "form": form,
    }
    return render(request, "web/rollback.html", context, status=status)
