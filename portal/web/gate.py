"""The door of every page: signed in, our errors turned into pages, nothing kept in caches."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from apps.core.errors import Denied, Missing
from apps.tenants.models import User

P = ParamSpec("P")


class MemberRequest(HttpRequest):
    """A request of somebody signed in, as our middleware leaves it."""

    htmx: HtmxDetails
    user: User


def member_page(
    view: Callable[Concatenate[MemberRequest, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """For people who are signed in. Missing becomes the 404 page and Denied the 403 page, with their sentences."""

    @wraps(view)
    def inner(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        member = cast(MemberRequest, request)
        if not request.user.is_authenticated and member.htmx:
            # A redirect would put the login page into the fragment's place: send the whole page there instead.
            query = urlencode({"next": member.htmx.current_url_abs_path or "/"})
            return HttpResponseClientRedirect(f"{resolve_url('web:login')}?{query}")
        return page(request, *args, **kwargs)

    @login_required
    def page(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        try:
            return view(cast(MemberRequest, request), *args, **kwargs)
        except Missing as error:
            raise Http404(error.detail) from error
        except Denied as error:
            raise PermissionDenied(error.detail) from error

    return cast("Callable[Concatenate[HttpRequest, P], HttpResponse]", never_cache(inner))
