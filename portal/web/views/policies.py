"""An app's traffic rules: maintenance, limits, who may come in, what it speaks, and ports for TCP."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from apps.core.errors import BerthError, Denied
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to, claimed_ports, people_of, rules_of_gateways
from apps.deployments.selectors.people import port_address
from apps.deployments.services.gateway_ports import port_claim, port_release
from apps.deployments.services.policies import FIELDS, person_remove, person_set, policy_set
from apps.deployments.services.protocols import protocol_set
from apps.tenants.permissions import Action, require
from portal.web.gate import MemberRequest, member_page
from portal.web.policy_forms import PersonForm, ProtocolForm, RulesForm
from portal.web.queries import Rights
from portal.web.texts import explain


def _page(
    request: MemberRequest,
    app: App,
    *,
    rules: RulesForm | None = None,
    person: PersonForm | None = None,
    protocol: ProtocolForm | None = None,
    status: int = 200,
) -> HttpResponse:
    rights = Rights.of(request.user, app)
    row = rules_of_gateways(app)
    context = {
        "app": app,
        "rights": rights,
        "policy": row,
        "tcp": app.protocol == App.Protocol.TCP,
        "rules": rules or RulesForm(initial=RulesForm.initial_of(row), app=app, manages=rights.manage),
        "person": person or PersonForm(),
        "protocol": protocol or ProtocolForm(initial={"protocol": app.protocol}),
        "people": list(people_of(app)),
        "ports": [(one, port_address(app, one.port)) for one in claimed_ports(app)],
    }
    return render(request, "web/policy.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def policy_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    if request.method != "POST":
        return _page(request, app)
    require(request.user, Action.DEPLOY, app)
    manages = Rights.of(request.user, app).manage
    initial = RulesForm.initial_of(rules_of_gateways(app))
    form = RulesForm(request.POST, initial=initial, app=app, manages=manages)
    if not form.is_valid():
        return _page(request, app, rules=form, status=400)
    try:
        policy_set(app=app, changes=form.changes(), by=request.user)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, {name: name for name in FIELDS if name in form.fields})
        return _page(request, app, rules=form, status=error.status)
    messages.success(request, _("The rules are kept. Gateways have them in a moment."))
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def maintenance_now(request: MemberRequest, slug: str) -> HttpResponse:
    """``on`` is 1 or 0."""
    app = app_visible_to(request.user, slug)
    begins = request.POST.get("on") == "1"

    def change() -> None:
        policy_set(app=app, changes={"maintenance": begins}, by=request.user)

    done = _("Visitors get the maintenance page now.") if begins else _("Visitors get the app again.")
    _told(request, change, done)
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def person_now(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    require(request.user, Action.MANAGE, app)
    form = PersonForm(request.POST)
    if not form.is_valid():
        return _page(request, app, person=form, status=400)
    name = form.cleaned_data["name"]
    try:
        person_set(app=app, name=name, password=form.cleaned_data["password"], by=request.user)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, {"name": "name", "password": "password"})
        return _page(request, app, person=form, status=error.status)
    messages.success(request, _("%(name)s may sign in with this password now.") % {"name": name})
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def person_remove_now(request: MemberRequest, slug: str, name: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)

    def change() -> None:
        person_remove(app=app, name=name, by=request.user)

    _told(request, change, _("%(name)s may not sign in any more.") % {"name": name})
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def protocol_now(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    require(request.user, Action.DEPLOY, app)
    form = ProtocolForm(request.POST)
    if not form.is_valid():
        return _page(request, app, protocol=form, status=400)
    try:
        protocol_set(app=app, protocol=form.cleaned_data["protocol"], by=request.user)
    except Denied:
        raise
    except BerthError as error:
        form.add_refusal(error, {"protocol": "protocol"})
        return _page(request, app, protocol=form, status=error.status)
    messages.success(request, _("What the app speaks is kept. It counts from the next deploy on."))
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def port_claim_now(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)

    def change() -> None:
        port_claim(app=app, by=request.user)

    _told(request, change, _("A port leads to the app now."))
    return redirect("web:policy", slug=slug)


@require_POST
@member_page
def port_release_now(request: MemberRequest, slug: str, port: int) -> HttpResponse:
    app = app_visible_to(request.user, slug)

    def change() -> None:
        port_release(app=app, port=port, by=request.user)

    _told(request, change, _("Port %(port)d leads nowhere any more.") % {"port": port})
    return redirect("web:policy", slug=slug)


def _told(request: MemberRequest, change: Callable[[], None], done: str) -> None:
    """A change by one button: what came of it stands above the page that follows."""
    try:
        change()
    except Denied:
        raise
    except BerthError as error:
        messages.error(request, explain(error))
    else:
        messages.success(request, done)
