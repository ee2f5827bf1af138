"""Events as they happen: server-sent events (HTML Living Standard, 9.2), resumed by ``Last-Event-ID``.

DRF lets people in, as everywhere in the API; what follows runs in the event loop. A stream that waits holds neither a
thread nor a database connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db.models import Max, Q, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.core.clock import now
from apps.core.errors import Invalid, Refused
from apps.core.models import Event
from apps.deployments.api.serializers import EventSerializer
from apps.deployments.selectors import app_visible_to, apps_visible_to, events_of, is_event_of
from apps.tenants.models import ApiToken, User
from apps.tenants.permissions import Viewer, person, tenants_of
from apps.tenants.selectors import events_of_tenant, tenant_visible_to
from portal.api.feed import Feed, News, Reader, connections_close, feed, in_thread, news_of

#: Seconds.
HEARTBEAT_S = 15.0
LIFE_S = 900.0
RETRY_S = 2.0
#: How long a stream may take to begin once it was let in.
BEGIN_S = 30.0
PAGE = 500
_ID = re.compile(r"[0-9]{1,18}")


class TooManyStreams(Refused):
    code = "events.too_many_streams"
    status = 429


class Slots:
    """How many streams each person has in this process. One that was never given back ends by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, dict[UUID, float]] = {}

    def take(self, user: int, limit: int) -> UUID:
        """Raises TooManyStreams."""
        at = time.monotonic()
        with self._lock:
            held = {slot: until for slot, until in self._until.get(user, {}).items() if until > at}
            if len(held) >= limit:
                raise TooManyStreams(f"You have {limit} event streams open. Close one first.")
            slot = uuid4()
            self._until[user] = {**held, slot: at + BEGIN_S}
        return slot

    def keep(self, user: int, slot: UUID) -> None:
        """The stream has begun."""
        with self._lock:
            self._until.setdefault(user, {})[slot] = time.monotonic() + LIFE_S + BEGIN_S

    def give(self, user: int, slot: UUID) -> None:
        with self._lock:
            held = self._until.get(user, {})
            held.pop(slot, None)
            if not held:
                self._until.pop(user, None)


slots = Slots()


class EventStreamRenderer(JSONRenderer):
    """For what the client asks for; errors are JSON all the same, and name their own type."""

    media_type = "text/event-stream"
    format = "event-stream"
    charset = None


class Stream:
    """The body of one answer. ``history`` is what the viewer may see, ``after`` the last id that they have."""

    def __init__(self, reader: Reader, history: Callable[[], QuerySet[Event]], after: int | None, user: int) -> None:
        self._reader = reader
        self._history = history
        self._after = after
        self._user = user
        self._slot = slots.take(user, settings.STREAMS_PER_USER)

    def close(self) -> None:
        """Called with the response, in any thread, however it ended."""
        slots.give(self._user, self._slot)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        slots.keep(self._user, self._slot)
        ends = time.monotonic() + LIFE_S
        source = feed()
        try:
            await _rest()
            async with aclosing(self._parts(source, ends)) as parts:
                async for part in parts:
                    yield part
        finally:
            source.leave(self._reader)
            self.close()

    async def _parts(self, source: Feed, ends: float) -> AsyncGenerator[bytes, None]:
        try:
            settled = await asyncio.wait_for(source.join(self._reader), BEGIN_S)
        except TimeoutError:
            return
        after = settled if self._after is None else min(self._after, max(settled, await in_thread(_newest)))
        # An id without data sets where a client resumes that was told nothing yet.
        yield f"retry: {int(RETRY_S * 1000)}\nid: {after}\n\n".encode()
        told: set[int] = set()
        while after < settled:
            page = await in_thread(self._page, after, settled)
            for pk, text in page:
                told.add(pk)
                yield text
            after = page[-1][0] if len(page) == PAGE else settled
        while (left := ends - time.monotonic()) > 0:
            try:
                news = await asyncio.wait_for(self._reader.queue.get(), min(HEARTBEAT_S, left))
            except TimeoutError:
                yield b":\n\n"
                continue
            if news is None:
                return
            if (news.late and news.event.pk not in told) or news.event.pk > after:
                yield _text(news)

    def _page(self, after: int, until: int) -> list[tuple[int, bytes]]:
        rows = self._history().filter(pk__gt=after, pk__lte=until).order_by("pk")[:PAGE]
        return [(one.event.pk, _text(one)) for one in news_of(rows)]


async def _rest() -> None:
    """Give back the connection and the thread of this request: it needs them no more, and may last for long.

    asgiref keeps one thread for each request until its end; one that is missing there is made anew when needed.
    """
    await sync_to_async(connections_close)()
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context is not None else None
    if executor is not None:
        executor.shutdown(wait=False)


def _newest() -> int:
    return Event.objects.aggregate(newest=Max("pk"))["newest"] or 0


def _text(news: News) -> bytes:
    """JSON has no line ends of its own, so no text can begin another field."""
    if not news.text:
        data = json.dumps({**EventSerializer(news.event).data, "app": news.app}, default=str)
        head = "" if news.late else f"id: {news.event.pk}\n"
        news.text = f"{head}data: {data}\n\n".encode()
    return news.text


class StreamView(APIView):
    renderer_classes = (EventStreamRenderer, JSONRenderer)

    def answer(
        self,
        request: Request,
        wants: Callable[[Event], bool],
        visible: Callable[[Viewer], bool],
        history: Callable[[], QuerySet[Event]],
    ) -> StreamingHttpResponse:
        user, alive = person(request.user), _still(request)

        def may() -> bool:
            viewer = alive()
            return viewer is not None and visible(viewer)

        stream = Stream(Reader(wants, may), history, _after(request), user.pk)
        reply = StreamingHttpResponse(stream, content_type="text/event-stream")
        # Proxies must neither keep it nor wait until there is more of it.
        reply.headers["Cache-Control"] = "no-store, no-transform"
        reply.headers["X-Accel-Buffering"] = "no"
        return reply


_SCHEMA: dict[str, Any] = {
    "responses": {(200, "text/event-stream"): str},
    "parameters": [
        OpenApiParameter("after", int, description="the last id that you have; without it, from now on"),
        OpenApiParameter("Last-Event-ID", int, OpenApiParameter.HEADER, description="the same; browsers send it"),
    ],
}


class AppStream(StreamView):
    @extend_schema(operation_id="apps_events_stream", **_SCHEMA)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse | Response:
        """What happens to the app, as it happens."""
        app = app_visible_to(request.user, slug)
        return self.answer(
            request,
            wants=lambda event: is_event_of(app, event),
            visible=lambda viewer: apps_visible_to(viewer).filter(pk=app.pk).exists(),
            history=lambda: events_of(app),
        )


class TenantStream(StreamView):
    @extend_schema(operation_id="tenants_events_stream", **_SCHEMA)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse | Response:
        """What happens in the tenant, as it happens. For members; a guest of one app has that app's stream."""
        tenant = tenant_visible_to(request.user, slug)
        return self.answer(
            request,
            wants=lambda event: event.tenant_id == tenant.pk,
            visible=lambda viewer: tenants_of(viewer).filter(pk=tenant.pk).exists(),
            history=lambda: events_of_tenant(tenant),
        )


def _after(request: Request) -> int | None:
    """The header wins: a browser sends it when it resumes, with the address that it began with."""
    text = request.headers.get("Last-Event-ID", "") or request.query_params.get("after", "")
    if not text:
        return None
    if not _ID.fullmatch(text):
        raise Invalid("after, and Last-Event-ID, must be the id of an event.", field="after")
    return int(text)


def _still(request: Request) -> Callable[[], User | None]:
    """Asks anew who this is: None once the token or the session has ended, or the person is switched off."""
    if isinstance(request.auth, ApiToken):
        token_pk = request.auth.pk

        def by_token() -> User | None:
            live = Q(expires_at=None) | Q(expires_at__gt=now())
            token = ApiToken.objects.select_related("user").filter(live, pk=token_pk, user__is_active=True).first()
            return token.user if token is not None else None

        return by_token
    key = request._request.session.session_key

    def by_session() -> User | None:
        stand_in = HttpRequest()
        stand_in.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
        user = get_user(stand_in)
        return user if isinstance(user, User) and user.is_active else None

    return by_session
