"""An app's own host names: which there are, what to put into DNS, asking for a look, and giving one back."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to
from apps.deployments.selectors.domains import domain_of, domains_of, records_of
from apps.deployments.services.domains import domain_add, domain_check, domain_remove
from apps.tenants.permissions import Action, require
from portal.web.forms import Styled
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.texts import explain

_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
_FIELDS = {
    "name": "name",
    "prefix": "path",
    "domains.held": "name",
    "domains.exists": "path",
}


class DomainForm(Styled, forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=400,
        help_text=gettext_lazy("A host name, or *. and one: any one label in front of it."),
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "www.example.com"}),
    )
    path = forms.CharField(
        label=gettext_lazy("Path"),
        max_length=600,
        initial="/",
        help_text=gettext_lazy("What of the name leads to this app: / is all of it that no other app of yours has."),
        widget=forms.TextInput(attrs=_PLAIN),
    )


def _page(request: MemberRequest, app: App, form: DomainForm, status: int = 200) -> HttpResponse:
    rows = [(one, records_of(one)) for one in domains_of(app)]
    context = {
        "app": app,
        "rows": rows,
        "waits": any(one.held is not None and one.held.status == "pending" for one, _records in rows),
        "rights": Rights.of(request.user, app),
        "form": form,
    }
    return render(request, "web/domains.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def domains_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    if request.method != "POST":
        return _page(request, app, DomainForm())
    require(request.user, Action.MANAGE, app)
    form = DomainForm(request.POST)
    if not form.is_valid():
        return _page(request, app, form, status=400)
    try:
        domain = domain_add(app=app, name=form.cleaned_data["name"], prefix=form.cleaned_data["path"], by=request.user)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, _FIELDS)
        return _page(request, app, form, status=error.status)
    if domain.routes:
        messages.success(request, _("%(name)s leads to this app now.") % {"name": domain})
    else:
        messages.success(request, _("Put one of the records of %(name)s into DNS now.") % {"name": domain})
    return redirect("web:domains", slug=slug)


@require_POST
@member_page
def domain_check_now(request: MemberRequest, slug: str, pk: int) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    require(request.user, Action.MANAGE, app)
    try:
        domain_check(domain=domain_of(app, pk), by=request.user)
    except BerthError as error:
        if error.status in (403, 404):
            raise
        messages.error(request, explain(error))
    else:
        messages.success(request, _("The platform is looking. This page shows what it sees."))
    return redirect("web:domains", slug=slug)


@require_POST
@member_page
def domain_remove_now(request: MemberRequest, slug: str, pk: int) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    require(request.user, Action.MANAGE, app)
    domain = domain_of(app, pk)
    try:
        domain_remove(domain=domain, by=request.user)
    except BerthError as error:
        if error.status in (403, 404):
            raise
        messages.error(request, explain(error))
    else:
        messages.success(request, _("%(name)s does not lead to this app any more.") % {"name": domain})
    return redirect("web:domains", slug=slug)
