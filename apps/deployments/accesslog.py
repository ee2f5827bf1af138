"""Lines of the access log on their way from the gateways' stream to a store, and out of it for their app's members.

What a gateway wrote is parsed before anything is done with it. A line belongs to the app that has its name and is
older than it: an app that was deleted leaves nothing to whoever takes its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Protocol

import redis
import structlog
from django.conf import settings

from apps.deployments.models import App
from gateway.contract import ACCESS_STREAM, AccessLine, ContractError

log = structlog.get_logger(__name__)

AT_ONCE = 1000
#: So long one turn may take; the rest is the next one's.
TURN_S = 5.0
REDIS_S = 2.0
#: Where the consumer is in the stream. It moves in the same transaction as the lines that it is past of.
CURSOR = f"{ACCESS_STREAM}:read"

Lines = Mapping[int, Sequence[AccessLine]]


class Store(Protocol):
    """Keeps the newest lines of each app, by the app's primary key. Raises redis.RedisError where it is away."""

    def cursor(self) -> str: ...

    def keep(self, lines: Lines, *, before: str, after: str) -> bool:
        """Keep lines, the oldest first, and move the cursor; both or nothing. False where it is not at ``before``."""
        ...

    def newest(self, app: int, most: int) -> list[AccessLine]: ...


class RedisStore:
    """A list for each app, of ``lines`` at most, that goes ``days`` after its last line."""

    def __init__(self, client: Any, *, lines: int, days: int) -> None:
        self._client = client
        self._lines = lines
        self._expires = timedelta(days=days)

    def cursor(self) -> str:
        return (self._client.get(CURSOR) or b"0-0").decode("ascii")

    def keep(self, lines: Lines, *, before: str, after: str) -> bool:
        with self._client.pipeline() as change:
            change.watch(CURSOR)
            if (change.get(CURSOR) or b"0-0").decode("ascii") != before:
                return False
            change.multi()
            for app, found in lines.items():
                change.lpush(_key(app), *(line.to_json() for line in found))
                change.ltrim(_key(app), 0, self._lines - 1)
                change.expire(_key(app), self._expires)
            change.set(CURSOR, after)
            try:
                change.execute()
            except redis.WatchError:
                return False
        return True

    def newest(self, app: int, most: int) -> list[AccessLine]:
        return [line for raw in self._client.lrange(_key(app), 0, most - 1) if (line := _parsed(raw)) is not None]


def _key(app: int) -> str:
    return f"{ACCESS_STREAM}:app:{app:d}"


def connect() -> Any:
    return redis.Redis.from_url(settings.ACCESS_LOG_REDIS, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)


def store(client: Any) -> RedisStore:
    return RedisStore(client, lines=settings.ACCESS_LOG_LINES, days=settings.ACCESS_LOG_DAYS)


def ship() -> int:
    """Move what stands in the stream into the store. Returns how many lines; what fails is the next turn's."""
    try:
        with closing(connect()) as client:
            return move(client, store(client))
    except (redis.RedisError, OSError) as error:
        log.warning("access_log_away", error=repr(error)[:200])
        return 0


def move(client: Any, to: Store) -> int:
    moved, until = 0, time.monotonic() + TURN_S
    while time.monotonic() < until:
        before = to.cursor()
        entries = client.xrange(ACCESS_STREAM, f"({before}", "+", count=AT_ONCE)
        if not entries and before != "0-0" and not _exists(client, before):
            # The stream began anew, with a Redis that lost its data or by a clock that went back.
            to.keep({}, before=before, after="0-0")
        if not entries:
            break
        lines = [line for _, fields in entries if (line := _parsed(fields.get(b"line", b""))) is not None]
        if not to.keep(_by_app(lines), before=before, after=entries[-1][0].decode("ascii")):
            # Somebody else moved them.
            break
        moved += len(lines)
        if len(entries) < AT_ONCE:
            break
    return moved


def _exists(client: Any, entry: str) -> bool:
    """Whether the stream is past the entry: it is the last one, or was dropped for newer ones."""
    last = client.xrevrange(ACCESS_STREAM, count=1)
    return bool(last) and _ordered(last[0][0].decode("ascii")) >= _ordered(entry)


def _ordered(entry: str) -> tuple[int, int]:
    at, _, number = entry.partition("-")
    return int(at), int(number)


def _by_app(lines: Sequence[AccessLine]) -> dict[int, list[AccessLine]]:
    rows = App.objects.filter(slug__in={line.app for line in lines}).values_list("slug", "pk", "created_at")
    known: dict[str, tuple[int, datetime]] = {slug: (pk, made) for slug, pk, made in rows}
    found: dict[int, list[AccessLine]] = {}
    for line in lines:
        pk, made = known.get(line.app, (0, None))
        if made is not None and line.at >= made.timestamp() * 1000:
            found.setdefault(pk, []).append(line)
    return found


def _parsed(raw: bytes) -> AccessLine | None:
    try:
        return AccessLine.from_json(raw)
    except (ContractError, RecursionError, json.JSONDecodeError) as error:
        log.warning("access_line_refused", error=str(error)[:200])
        return None


# For members ------------------------------------------------------------------------------------------------------


def newest(app: App, *, kind: str = "", most: int = 100) -> list[AccessLine] | None:
    """The newest first; ``kind``: the first digit of their status. None where there is no access log, or it is away."""
    if not settings.ACCESS_LOG_REDIS:
        return None
    try:
        with closing(connect()) as client:
            found = store(client).newest(app.pk, settings.ACCESS_LOG_LINES)
    except (redis.RedisError, OSError) as error:
        log.warning("access_log_away", error=repr(error)[:200])
        return None
    return [line for line in found if not kind or str(line.status // 100) == kind][:most]
