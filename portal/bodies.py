"""Bodies that are too large for Django, which writes a whole body to disk before any view sees who sent it.

Under ASGI the view gets such a body from the connection itself, a part at a time, and only what it asks for is read:
until then the sender waits. portal.asgi says for which requests.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from apps.registry.receiving import SenderGone

#: PUT to these addresses sends an archive.
STREAMED = re.compile(r"/api/v1/apps/[^/]{1,100}/uploads/?")
#: Where the view finds the body.
KEY = "berth.body"
PART = 1 << 20
#: However slowly it comes, the view sees what there is after so many seconds, and may look at its deadline.
PART_S = 2.0

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


def is_streamed(scope: Message) -> bool:
    return bool(scope.get("method") == "PUT" and STREAMED.fullmatch(scope.get("path", "")))


class StreamedBody:
    """Made in the event loop, read in the view's thread."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        # The server's, and not the view's: what it asks of the connection goes on with the context in which it was
        # asked, and the connection's next request would begin with what is left of this one (asgiref's executor).
        self._context = contextvars.copy_context()
        self._ended = False
        self._told = False

    async def none(self) -> Message:
        """For Django: a body that is empty, and a connection that stays. The view sees for itself when it goes."""
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    def read(self) -> bytes:
        """Up to about 1 MiB; nothing at its end. Raises SenderGone."""
        coming = self._context.run(asyncio.run_coroutine_threadsafe, self._part(), self._loop)
        try:
            # A sender that is silent; or a loop that has stopped, where nobody would answer.
            return coming.result(settings.UPLOAD_IDLE_S + PART_S)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError) as error:
            coming.cancel()
            raise SenderGone from error

    async def _part(self) -> bytes:
        parts: list[bytes] = []
        size, begun = 0, time.monotonic()
        while not self._ended and size < PART and (not parts or time.monotonic() - begun < PART_S):
            message = await self._receive()
            if message["type"] != "http.request":
                raise SenderGone
            self._ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                parts.append(body)
                size += len(body)
        return b"".join(parts)


def reader_of(request: HttpRequest) -> Callable[[], bytes]:
    """What reads the request's body: raises SenderGone."""
    body: StreamedBody | None = getattr(request, "scope", {}).get(KEY)
    if body is not None:
        return body.read

    def from_server() -> bytes:
        """WSGI servers give the body as it comes."""
        try:
            return request.read(PART)
        except OSError as error:
            raise SenderGone from error

    return from_server
