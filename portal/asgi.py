"""What gunicorn serves."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.production")
# Before its models may be imported.
_django = get_asgi_application()

from portal.bodies import KEY, StreamedBody, is_streamed  # noqa: E402

#: Above every body that the portal and the API take (Django's own limit is 2.5 MB).
MAX_BODY = 3 * 1024 * 1024

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Any, Any], Awaitable[None]]


class BodyTooLarge(Exception):
    """The body went over the limit while it was read."""


class BoundedBodies:
    """Django writes a body to disk whole before any view sees who sent it; here it ends at MAX_BODY bytes with 413.

    But an image archive: that is read by its view, which knows its own limit.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        if is_streamed(scope):
            body = StreamedBody(receive)
            await self.application({**scope, KEY: body}, body.none, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if len(declared) > 12 or not declared.isdigit() or int(declared) > MAX_BODY:
            await _refuse(send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise BodyTooLarge
            return message

        try:
            await self.application(scope, counted, send)
        except BodyTooLarge:
            await _refuse(send)


async def _refuse(send: Send) -> None:
    body = (
        b'{"type":"urn:berth:error:request.too_large","title":"Too large","status":413,'
        b'"code":"request.too_large","detail":"A request may hold 3 MiB at most."}'
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = BoundedBodies(_django)
