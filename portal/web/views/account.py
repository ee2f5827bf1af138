"""A person's own page: tokens, language, theme."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import BerthError
from apps.tenants.selectors import tokens_of
from apps.tenants.services.tokens import token_create, token_revoke
from portal.web.forms import TokenForm
from portal.web.gate import MemberRequest, member_page


def _render(request: MemberRequest, form: TokenForm, secret: str = "", status: int = 200) -> HttpResponse:
    memberships = request.user.memberships.filter(tenant__is_active=True).select_related("tenant")
    context = {
        "form": form,
        "tokens": list(tokens_of(request.user)),
        "secret": secret,
        "registry": settings.REGISTRY_PUBLIC,
        "memberships": list(memberships.order_by("tenant__slug")),
    }
    return render(request, "web/account.html", context, status=status)


@require_safe
@member_page
def account(request: MemberRequest) -> HttpResponse:
    return _render(request, TokenForm())


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def token_new(request: MemberRequest) -> HttpResponse:
    """The answer to this POST is the only place where the secret ever stands: no redirect, so nothing keeps it."""
    if request.method != "POST":
        return redirect("web:account")
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _render(request, form, status=400)
    data = form.cleaned_data
    try:
        _token, secret = token_create(
            user=request.user, name=data["name"], scopes=data["scopes"], expires_at=form.expires_at()
        )
    except BerthError as error:
        form.add_refusal(error, {})
        return _render(request, form, status=error.status)
    return _render(request, TokenForm(), secret=secret, status=201)


@require_POST
@member_page
def token_end(request: MemberRequest, pk: int) -> HttpResponse:
    token_revoke(user=request.user, pk=pk)
    messages.success(request, _("The token is revoked. Whatever used it is signed out now."))
    return redirect("web:account")
