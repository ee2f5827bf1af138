"""What the registry and docker's client talk to. Not part of /api/v1: its form is the distribution specification's."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from datetime import datetime

import structlog
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from apps.core.clock import now
from apps.registry.services.tokens import granted_to, parse_scopes, token_issue
from apps.registry.services.versions import version_pushed
from apps.tenants.models import ApiToken, User
from apps.tenants.selectors import live_token

log = structlog.get_logger(__name__)
MAX_EVENTS = 1000


def _error(code: str, message: str, status: int) -> JsonResponse:
    """The registry's own error form (distribution specification, "Error Codes"), so that docker shows the message."""
    reply = JsonResponse({"errors": [{"code": code, "message": message}]}, status=status)
    if status == 401:
        reply["WWW-Authenticate"] = f'Basic realm="{settings.REGISTRY_SERVICE}", charset="UTF-8"'
    return reply


def _basic(request: HttpRequest) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, secret) if colon else None


def _user(credential: tuple[str, str]) -> User | None:
    """The user whose registry token this is; the name must be its owner's."""
    name, secret = credential
    token = live_token(secret, ApiToken.Scope.REGISTRY)
    return token.user if token and hmac.compare_digest(token.user.username.encode(), name.encode()) else None


@never_cache
@require_GET
def token(request: HttpRequest) -> JsonResponse:
    """The token server (distribution, docs/content/spec/auth/token.md). Less than was asked for is how it says no."""
    if request.GET.get("service") != settings.REGISTRY_SERVICE:
        return _error("UNSUPPORTED", "This token server does not serve that registry.", 400)
    credential = _basic(request)
    if credential is None:
        return _error("UNAUTHORIZED", "Sign in with your user name and an API token: docker login", 401)
    user = _user(credential)
    if user is None:
        log.info("registry_login_refused", user=credential[0][:150])
        return _error("UNAUTHORIZED", "The user name or API token is not valid (any more).", 401)
    issued = token_issue(subject=user.username, access=granted_to(user, parse_scopes(request.GET.getlist("scope"))))
    return JsonResponse(
        {
            "token": issued.token,
            "access_token": issued.token,
            "expires_in": issued.expires_in,
            "issued_at": issued.issued_at,
        }
    )


@csrf_exempt
@require_POST
def notifications(request: HttpRequest) -> JsonResponse:
    """Push notifications (distribution, docs/content/about/notifications.md): repeated, unordered, sometimes lost."""
    expected = f"Bearer {settings.REGISTRY_NOTIFICATION_SECRET}"
    given = request.headers.get("Authorization", "")
    if not settings.REGISTRY_NOTIFICATION_SECRET or not hmac.compare_digest(given.encode(), expected.encode()):
        return _error("UNAUTHORIZED", "This is for the registry.", 401)
    try:
        events = json.loads(request.body)["events"][:MAX_EVENTS]
    except (ValueError, KeyError, TypeError):
        return _error("UNSUPPORTED", "Not a notification envelope.", 400)
    for event in events:
        if isinstance(event, dict) and event.get("action") == "push":
            _pushed(event)
    return JsonResponse({})


def _pushed(event: dict[str, object]) -> None:
    target, actor = event.get("target"), event.get("actor")
    if not isinstance(target, dict) or not target.get("tag"):
        return
    version_pushed(
        repository=str(target.get("repository", "")),
        tag=str(target["tag"]),
        digest=str(target.get("digest", "")),
        media_type=str(target.get("mediaType", "")),
        pushed_by=str(actor.get("name", "")) if isinstance(actor, dict) else "",
        pushed_at=_time(event.get("timestamp")),
    )


def _time(text: object) -> datetime:
    """The registry writes nanoseconds; what can't be read counts as now. A time to come is no time of a push."""
    try:
        at = parse_datetime(str(text))
    except ValueError:
        at = None
    return min(at, now()) if at is not None and at.tzinfo is not None else now()
