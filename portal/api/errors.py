"""THE exception handler: one envelope for every error, RFC 9457 problem details with our stable codes."""

from __future__ import annotations

from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions, status
from rest_framework.response import Response

from apps.core.errors import BerthError, Denied, Missing, PlatformError

log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"

_CODES: dict[type[exceptions.APIException], str] = {
    exceptions.NotAuthenticated: "auth.required",
    exceptions.AuthenticationFailed: "auth.failed",
    exceptions.PermissionDenied: "permission.denied",
    exceptions.NotFound: "not_found",
    exceptions.MethodNotAllowed: "method.not_allowed",
    exceptions.NotAcceptable: "request.not_acceptable",
    exceptions.UnsupportedMediaType: "request.unsupported_media_type",
    exceptions.Throttled: "request.throttled",
    exceptions.ParseError: "request.not_json",
}
_TITLES = {
    400: "Bad request",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    415: "Unsupported media type",
    429: "Too many requests",
    500: "Our fault",
    503: "Temporarily unavailable",
}


def _encodable(text: str) -> str:
    """What somebody sent may hold halves of surrogate pairs, which no answer can be written with."""
    return text.encode("utf-8", "backslashreplace").decode()


def problem(code: str, http_status: int, detail: str, **extra: object) -> dict[str, Any]:
    return {
        "type": f"urn:berth:error:{code}",
        "title": _TITLES.get(http_status, "Error"),
        "status": http_status,
        "code": code,
        "detail": _encodable(detail),
        **extra,
    }


def _request_id() -> dict[str, str]:
    known = structlog.contextvars.get_contextvars().get("request_id")
    return {"request_id": known} if known else {}


def _field_errors(detail: Any, path: str = "") -> list[dict[str, str]]:
    if isinstance(detail, dict):
        return [one for key, value in detail.items() for one in _field_errors(value, f"{path}/{key}")]
    if isinstance(detail, list):
        return [
            one
            for index, value in enumerate(detail)
            for one in _field_errors(value, path if isinstance(value, str) else f"{path}/{index}")
        ]
    code = getattr(detail, "code", "invalid")
    return [{"pointer": _encodable(path), "code": code, "detail": _encodable(str(detail))}]


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's EXCEPTION_HANDLER. Unknown exceptions go on to Django, which logs them and answers 500."""
    if isinstance(error, Http404):
        error = Missing("There is no such object.")
    elif isinstance(error, PermissionDenied):
        error = Denied("You may not do this.")
    headers: dict[str, str] = {}
    if isinstance(error, BerthError):
        body = problem(error.code, error.status, error.detail, **error.extra, **_request_id())
        if isinstance(error, PlatformError):
            log.error("platform_error", code=error.code, detail=error.detail)
            headers["Retry-After"] = "5"
    elif isinstance(error, exceptions.ValidationError):
        errors = _field_errors(error.detail)
        summary = "; ".join(f"{one['pointer'] or '/'}: {one['detail']}" for one in errors[:5])
        body = problem("request.invalid", 400, summary, errors=errors, **_request_id())
    elif isinstance(error, exceptions.APIException):
        code = _CODES.get(type(error), "request.refused")
        body = problem(code, error.status_code, str(error.detail), **_request_id())
        if header := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = header
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait))
    else:
        return None
    return Response(body, status=body["status"], headers=headers, content_type=MEDIA_TYPE)


def _plain(request: HttpRequest, code: str, http_status: int, detail: str) -> JsonResponse:
    body = problem(code, http_status, detail, **_request_id())
    return JsonResponse(body, status=http_status, content_type=MEDIA_TYPE)


def api_not_found(request: HttpRequest) -> JsonResponse:
    """For addresses below /api/ that no view has."""
    return _plain(request, "not_found", status.HTTP_404_NOT_FOUND, "There is nothing at this address.")


def api_bad_request(request: HttpRequest) -> JsonResponse:
    return _plain(request, "request.refused", status.HTTP_400_BAD_REQUEST, "The request can't be read as it stands.")


def api_server_error(request: HttpRequest) -> JsonResponse:
    return _plain(
        request,
        "platform.error",
        status.HTTP_500_INTERNAL_SERVER_ERROR,
        "Something of ours broke. It was logged; tell the operators the request id.",
    )
