"""An app's clean-up: the rules, what they would take and why the rest stays, and taking it now."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.keeping import Rules
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.retention import clean_now, preview, rules_of, rules_set, rules_with
from apps.tenants.permissions import Action, require
from apps.tenants.selectors import quota_of
from portal.web.cleanup import CleanupForm, Storage
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.texts import explain

VERSIONS_PER_PAGE = 100


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def cleanup_page(request: MemberRequest, slug: str) -> HttpResponse:
    """POST keeps the rules; with ``try`` it shows what they would do and keeps nothing."""
    app = app_visible_to(request.user, slug)
    rules = rules_of(app)
    if request.method == "POST":
        require(request.user, Action.MANAGE, app)
        form = CleanupForm(request.POST)
        asked = _asked(form, rules)
        if asked is None:
            return _page(request, app, rules, form, status=400)
        if "try" in request.POST:
            return _page(request, app, asked, form, tried=True)
        try:
            rules_set(app=app, rules=asked, by=request.user)
        except Denied:
            raise
        except BerthError as error:
            form.add_refusal(error, {})
            return _page(request, app, rules, form, status=error.status)
        messages.success(request, _saved(asked))
        return redirect("web:cleanup", slug=slug)
    return _page(request, app, rules, CleanupForm(initial=CleanupForm.initial_of(rules)))


def _asked(form: CleanupForm, rules: Rules) -> Rules | None:
    """None where the form has errors, which it shows."""
    if not form.is_valid():
        return None
    try:
        return rules_with(rules, **form.cleaned_data)
    except BerthError as error:
        form.add_refusal(error, {name: name for name in form.fields})
        return None


def _saved(rules: Rules) -> str:
    return _("The rules are kept, and applied once a day.") if rules.is_on else _("The clean-up of tags is off.")


def _page(
    request: MemberRequest, app: App, rules: Rules, form: CleanupForm, *, tried: bool = False, status: int = 200
) -> HttpResponse:
    found = preview(app=app, rules=rules)
    # What goes first: that is what somebody looks for.
    ordered = sorted(found.verdicts, key=lambda one: not one.goes)
    context = {
        "app": app,
        "form": form,
        "rights": Rights.of(request.user, app),
        "found": found,
        "going": len(found.going),
        "tried": tried,
        "page": Paginator(ordered, VERSIONS_PER_PAGE).get_page(request.GET.get("page")),
        "storage": Storage.of(quota_of(app.tenant_id)),
    }
    return render(request, "web/cleanup.html", context, status=status)


@require_POST
@member_page
def cleanup_now(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    try:
        count = clean_now(app=app, by=request.user)
    except Denied:
        raise
    except BerthError as error:
        messages.error(request, explain(error))
    else:
        words = ngettext("%(n)d version is being deleted.", "%(n)d versions are being deleted.", count)
        messages.success(request, words % {"n": count})
    return redirect("web:cleanup", slug=slug)
