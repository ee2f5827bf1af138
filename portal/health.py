"""/healthz says that this process lives; /readyz says whether what it needs can be reached, and what can't."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import redis
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

TIMEOUT_S = 2.0


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 where all answer, else 503; each part with "ok" or what went wrong, all asked at once."""
    checks: dict[str, Callable[[], None]] = {"database": _database, "redis": _redis, "zookeeper": _zookeeper}
    with ThreadPoolExecutor(len(checks)) as pool:
        answers = dict(zip(checks, pool.map(_asked, checks.values()), strict=True))
    ready = all(answer == "ok" for answer in answers.values())
    body = {"status": "ok" if ready else "unavailable", "checks": answers}
    return JsonResponse(body, status=200 if ready else 503)


def _asked(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:
        # Only the kind: texts of database errors hold addresses and user names, and this page is public.
        return f"unreachable ({type(error).__name__})"
    return "ok"


def _database() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()


def _redis() -> None:
    with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S) as client:
        client.ping()


def _zookeeper() -> None:
    """One of the servers says that it serves. ``srvr`` is the one four-letter word that is on by default
    (ZooKeeper administrator's guide, "The Four Letter Words").
    """
    last: Exception | None = None
    for server in settings.ZOOKEEPER_HOSTS.split("/", 1)[0].split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)) as link:
                link.sendall(b"srvr")
                if b"Mode:" in link.makefile("rb").read():
                    return
                last = ConnectionError("not serving")
        except OSError as error:
            last = error
    raise last or ConnectionError("no server is set")


urlpatterns = [path("healthz", healthz, name="healthz"), path("readyz", readyz, name="readyz")]
