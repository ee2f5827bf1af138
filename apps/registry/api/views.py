"""What the registry tells. Not part of /api/v1: its form is the distribution specification's."""

from __future__ import annotations

import hmac
import json
from datetime import datetime

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.utils.dateparse import parse_datetime
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from apps.core.clock import now
from apps.registry.api.errors import refused
from apps.registry.content import IMAGES, INDEXES
from apps.registry.services.manifests import manifest_doubted, manifest_pushed
from apps.registry.services.tokens import CLEANER
from apps.registry.services.versions import version_pushed

MAX_EVENTS = 1000


@csrf_exempt
@require_POST
def notifications(request: HttpRequest) -> JsonResponse:
    """Push notifications (distribution, docs/content/about/notifications.md): repeated, unordered, sometimes lost."""
    expected = f"Bearer {settings.REGISTRY_NOTIFICATION_SECRET}"
    given = request.headers.get("Authorization", "")
    if not settings.REGISTRY_NOTIFICATION_SECRET or not hmac.compare_digest(given.encode(), expected.encode()):
        return refused("UNAUTHORIZED", "This is for the registry.", 401)
    try:
        events = json.loads(request.body)["events"][:MAX_EVENTS]
    except (ValueError, KeyError, TypeError):
        return refused("UNSUPPORTED", "Not a notification envelope.", 400)
    for event in events:
        if isinstance(event, dict):
            _noted(event)
    return JsonResponse({})


def _noted(event: dict[str, object]) -> None:
    target, actor = event.get("target"), event.get("actor")
    if not isinstance(target, dict):
        return
    repository, digest = str(target.get("repository", "")), str(target.get("digest", ""))
    pushed_by = str(actor.get("name", "")) if isinstance(actor, dict) else ""
    if event.get("action") == "delete":
        manifest_doubted(repository=repository, digest=digest)
    # Of the platform's own pushes nothing becomes a version: it only takes tags away.
    if event.get("action") != "push" or pushed_by == CLEANER:
        return
    media_type = str(target.get("mediaType", ""))
    at = _time(event.get("timestamp"))
    if tag := target.get("tag"):
        version_pushed(
            repository=repository,
            tag=str(tag),
            digest=digest,
            media_type=media_type,
            pushed_by=pushed_by,
            pushed_at=at,
        )
    elif media_type in (*IMAGES, *INDEXES):
        # Not a blob: those are pushed one by one, and told of too.
        manifest_pushed(repository=repository, digest=digest, media_type=media_type, pushed_by=pushed_by, pushed_at=at)


def _time(text: object) -> datetime:
    """The registry writes nanoseconds; what can't be read counts as now. A time to come is no time of a push."""
    try:
        at = parse_datetime(str(text))
    except ValueError:
        at = None
    return min(at, now()) if at is not None and at.tzinfo is not None else now()
