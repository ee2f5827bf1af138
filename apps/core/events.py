"""Writing events. Reading them is for selectors, which scope them to the viewer."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from apps.core import compiled
from apps.core.models import Event

log = structlog.get_logger(__name__)


def record(
    code: str,
    message: str,
    *,
    level: str = Event.Level.INFO,
    tenant_id: int | None = None,
    app_id: int | None = None,
    host_id: int | None = None,
    actor: str = "",
    **detail: object,
) -> Event:
    """Append an event, in the caller's transaction if there is one, and log the same line."""
    event = Event(
        code=code,
        message=message,
        level=level,
        tenant_id=tenant_id,
        app_id=app_id,
        host_id=host_id,
        actor=actor,
        detail=detail,
    )
    append([event])
    return event


def append(events: Sequence[Event]) -> None:
    """The same for several at once."""
    compiled.insert(events)
    for one in events:
        log.info(
            "recorded",
            event_code=one.code,
            message=one.message,
            tenant=one.tenant_id,
            app=one.app_id,
            host=one.host_id,
            actor=one.actor,
        )
