"""From the gateways' stream through the store to members' pages, with a real Redis."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from apps.core.clock import now
from apps.deployments import accesslog
from gateway.contract import ACCESS_STREAM, AccessLine
from gateway.tests.parts import until
from gateway.tests.zookeeper import free_port
from stack.parts.base import program

pytestmark = [pytest.mark.real, pytest.mark.django_db]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    directory: Path = tmp_path_factory.mktemp("redis")
    command = [program("redis-server"), "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen([*command, "--dir", str(directory)], stdout=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            with socket.socket() as asked:
                return asked.connect_ex(("127.0.0.1", port)) == 0

        until(answers, "Redis answers")
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def stream(server: int, settings: Any) -> Iterator[Any]:
    settings.ACCESS_LOG_REDIS = f"redis://127.0.0.1:{server}/0"
    client: Any = redis.Redis(port=server)
    client.flushall()
    yield client
    client.close()


def _line(number: int = 0, app: str = "shop", **more: Any) -> AccessLine:
    at = int(now().timestamp() * 1000) + 60_000 + number
    line = AccessLine(
        at, "gw1", app, "1.0", "a" * 12, "10.0.0.9", "GET", "shop.test", f"/{number}", 200, 3, 4, 5, 6, "r"
    )
    return replace(line, **more)


def _add(stream: Any, *lines: AccessLine | bytes) -> None:
    for line in lines:
        stream.xadd(ACCESS_STREAM, {"line": line if isinstance(line, bytes) else line.to_json()})


def _paths(app: Any, **how: Any) -> list[str]:
    return [line.path for line in accesslog.newest(app, **how) or []]


def test_lines_are_kept_by_app_and_the_newest_come_first(world: Any, stream: Any) -> None:
    shop, blog = world.app("shop"), world.app("blog")
    _add(stream, _line(1), _line(2, status=503), _line(3, app="blog"), _line(4, status=0), _line(5, app="nobodys"))
    assert accesslog.ship() == 5
    assert (_paths(shop), _paths(blog)) == (["/4", "/2", "/1"], ["/3"])
    assert (_paths(shop, kind="5"), _paths(shop, kind="0"), _paths(shop, most=1)) == (["/2"], ["/4"], ["/4"])


def test_each_line_is_kept_once_whoever_moves_it(world: Any, stream: Any) -> None:
    shop = world.app("shop")
    _add(stream, _line(1))
    accesslog.ship()
    accesslog.ship()
    store = accesslog.store(stream)
    # Another that read the stream at the same time finds the cursor moved.
    assert not store.keep({shop.pk: [_line(1)]}, before="0-0", after="9-9")
    _add(stream, _line(2))
    accesslog.ship()
    assert _paths(shop) == ["/2", "/1"]


def test_no_more_than_the_newest_are_kept_and_not_for_ever(world: Any, stream: Any, settings: Any) -> None:
    settings.ACCESS_LOG_LINES = 10
    shop = world.app("shop")
    _add(stream, *(_line(number) for number in range(30)))
    accesslog.ship()
    assert _paths(shop) == [f"/{number}" for number in range(29, 19, -1)]
    key = f"{ACCESS_STREAM}:app:{shop.pk}"
    assert stream.llen(key) == 10
    assert 0 < stream.ttl(key) <= 7 * 86400


def test_what_was_asked_of_an_app_before_it_was_made_is_not_its_own(world: Any, stream: Any) -> None:
    _add(stream, _line(1, at=1000))
    shop = world.app("shop")
    accesslog.ship()
    assert _paths(shop) == []


def test_a_line_that_is_none_stops_no_other(world: Any, stream: Any) -> None:
    shop = world.app("shop")
    body = json.loads(_line(1).to_json())
    _add(stream, b"", b"[" * 50_000, json.dumps({**body, "client": "x"}).encode(), _line(2))
    stream.xadd(ACCESS_STREAM, {"other": "x"})
    accesslog.ship()
    assert _paths(shop) == ["/2"]


def test_a_stream_that_began_anew_is_read_from_its_beginning(world: Any, stream: Any) -> None:
    shop = world.app("shop")
    stream.xadd(ACCESS_STREAM, {"line": _line(1).to_json()}, id="99999999999999-0")
    accesslog.ship()
    stream.delete(ACCESS_STREAM)
    _add(stream, _line(2))
    accesslog.ship()
    accesslog.ship()
    assert _paths(shop) == ["/2", "/1"]


def test_members_read_their_own_and_strangers_and_other_members_do_not(world: Any, stream: Any, client: Any) -> None:
    world.app("shop")
    hostile = _line(1, status=500, path="/<script>alert(1)</script>", sampled=7)
    _add(stream, hostile, _line(2))
    accesslog.ship()
    url = "/api/v1/apps/shop/access-log/"
    client.force_login(world.charlie)
    assert client.get(url).status_code == client.get("/apps/shop/access-log").status_code == 404
    client.force_login(world.vera)
    reply = client.get(url, {"status": "5xx"})
    (line,) = reply.json()["lines"]
    assert (line["status"], line["sampled"], line["path"], line["client"]) == (500, 7, hostile.path, "10.0.0.9")
    assert b"gw1" not in reply.content
    assert [one["status"] for one in client.get(url).json()["lines"]] == [200, 500]
    assert client.get(url, {"status": "9xx"}).status_code == client.get(url, {"limit": "0"}).status_code == 400
    text = client.get("/apps/shop/access-log?status=5xx").content.decode()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "×7" in text
    assert "/2<" not in text
    assert client.get("/apps/shop/access-log?status=<x>").status_code == 200


def test_without_redis_it_is_said_that_nothing_is_known(world: Any, settings: Any, client: Any) -> None:
    world.app("shop")
    client.force_login(world.vera)
    for url in ("", f"redis://127.0.0.1:{free_port()}/0"):
        settings.ACCESS_LOG_REDIS = url
        assert client.get("/api/v1/apps/shop/access-log/").json() == {"known": False, "lines": []}
        assert "keeps no access log" in client.get("/apps/shop/access-log").content.decode()
        if url:
            assert accesslog.ship() == 0
