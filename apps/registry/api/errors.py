"""Refusals in the registry's own form, so that docker and its like show the sentence."""

from __future__ import annotations

from django.conf import settings
from django.http import JsonResponse


def refused(code: str, message: str, status: int, *, retry_after: int = 0) -> JsonResponse:
    """``code`` is the distribution specification's ("Error Codes"); ``retry_after`` is in seconds."""
    reply = JsonResponse({"errors": [{"code": code, "message": message}]}, status=status)
    if status == 401:
        reply["WWW-Authenticate"] = f'Basic realm="{settings.REGISTRY_SERVICE}", charset="UTF-8"'
    if retry_after:
        reply["Retry-After"] = str(retry_after)
    return reply
