"""The pages for 400, 403, 404 and 500. Below /api/ the API's own envelope answers."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from portal.api.errors import api_bad_request, api_not_found, api_server_error


def _for_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def _page(name: str, status: int) -> HttpResponse:
    """Rendered without the request: an error page must not need the database or the session that just failed."""
    return HttpResponse(render_to_string(f"web/errors/{name}.html"), status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return api_bad_request(request) if _for_api(request) else _page("400", 400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page("403", 403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return api_not_found(request) if _for_api(request) else _page("404", 404)


def server_error(request: HttpRequest) -> HttpResponse:
    return api_server_error(request) if _for_api(request) else _page("500", 500)
