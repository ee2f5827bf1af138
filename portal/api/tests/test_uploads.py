"""Sending an archive: over DRF as an integrator does, and through the ASGI application as a server calls it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django.test import Client
from rest_framework.test import APIClient
from structlog.contextvars import get_contextvars

from apps.registry import spool
from apps.registry.models import Upload
from apps.tenants.services.tokens import token_create
from portal.asgi import MAX_BODY, application

PATH = "/api/v1/apps/shop/uploads/"
MIB = 1 << 20
BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, settings: Any) -> Path:
    settings.UPLOAD_DIRECTORY = str(tmp_path / "spool")
    return tmp_path


@pytest.fixture(autouse=True)
def closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request has a thread here, which would keep its connection and the test's database with it."""
    monkeypatch.setitem(connections.databases["default"], "CONN_MAX_AGE", 0)


def _token(user: Any) -> str:
    return f"Bearer {token_create(user=user, name='test')[1]}"


def _client(user: Any) -> APIClient:
    client = APIClient()
    if user is not None:
        client.credentials(HTTP_AUTHORIZATION=_token(user))
    return client


def _put(client: Any, body: bytes = b"archive", tag: str = "1.0", **more: Any) -> Any:
    return client.generic("PUT", f"{PATH}?tag={tag}", body, content_type="application/x-tar", **more)


def test_what_is_sent_waits_for_a_worker(world: Any, nudges: Any, django_capture_on_commit_callbacks: Any) -> None:
    world.app("shop")
    client = _client(world.bob)
    with django_capture_on_commit_callbacks(execute=True):
        answer = _put(client, b"x" * 1000)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["status"], told["tag"], told["received_bytes"], told["pushed_by"]) == ("checking", "1.0", 1000, "bob")
    upload = Upload.objects.get()
    assert spool.received(upload.uid).read_bytes() == b"x" * 1000
    assert nudges == [("registry.upload", (upload.pk,))]
    assert client.get(answer.headers["Location"]).json() == told
    assert client.get(PATH).json()["results"] == [told]
    assert "spool" not in told


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("vera", 403, "permission.denied"), ("charlie", 404, "apps.not_found"), (None, 401, "auth.required")],
)
def test_who_may_not_push_sends_nothing(name: str | None, status: int, code: str, world: Any) -> None:
    world.app("shop")
    answer = _put(_client(getattr(world, name) if name else None))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not Upload.objects.exists()
    assert not list(spool.directory().glob("*.upload"))


def test_uploads_of_others_are_not_there(world: Any) -> None:
    world.app("shop")
    there = _put(_client(world.alice)).json()["id"]
    stranger, viewer = _client(world.charlie), _client(world.vera)
    for path in (PATH, f"{PATH}{there}/"):
        assert stranger.get(path).status_code == 404
        assert viewer.get(path).status_code == 200
    missing = viewer.get(f"{PATH}{uuid4()}/")
    assert (missing.status_code, missing.json()["code"]) == (404, "uploads.not_found")
    world.app("other", tenant=world.rival, by=world.charlie)
    assert stranger.get(f"/api/v1/apps/other/uploads/{there}/").status_code == 404, "nor under an app of one's own"


def test_a_session_needs_the_csrf_token(world: Any) -> None:
    world.app("shop")
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.alice, backend=BACKEND)
    assert _put(client).status_code == 403
    assert not Upload.objects.exists()
    client.cookies["csrftoken"] = secret = "a" * 32
    assert _put(client, headers={"X-CSRFToken": secret}).status_code == 202


@pytest.mark.parametrize("tag", ["", "a%20b", "..%2Fx", "x" * 129])
def test_a_tag_that_is_none_is_refused(tag: str, world: Any) -> None:
    world.app("shop")
    answer = _put(_client(world.alice), tag=tag)
    assert (answer.status_code, answer.json()["code"]) == (400, "uploads.tag_invalid")


def test_limits_have_their_own_codes(world: Any, settings: Any) -> None:
    world.app("shop")
    client = _client(world.alice)
    settings.UPLOAD_MAX_MB = 0
    answer = _put(client)
    assert (answer.status_code, answer.json()["code"]) == (413, "uploads.too_large")
    settings.UPLOAD_MAX_MB = 1
    for _ in range(2):
        assert _put(client).status_code == 202
    answer = _put(client)
    assert (answer.status_code, answer.json()["code"]) == (429, "uploads.too_many")


# Through the server's interface ----------------------------------------------------------------------------------


class Sender:
    """A client as the server shows it to the application: parts are given when they are asked for."""

    def __init__(self, path: str, parts: list[bytes | None], **headers: str) -> None:
        path, _, query = path.partition("?")
        self.parts = parts
        self.asked = 0
        self.known: set[str] = set()
        self.status = 0
        self.body = b""
        lines = {"host": "testserver", "content-type": "application/x-tar", **headers}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in lines.items()],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        self.known |= set(get_contextvars())
        if not self.parts:
            await asyncio.Event().wait()
        part = self.parts.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")

    def run(self) -> Any:
        async def visit() -> None:
            async with asyncio.timeout(20):
                await application(self.scope, self.receive, self.send)

        asyncio.run(visit())
        return json.loads(self.body) if self.body else None


@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/")])
def test_a_body_larger_than_others_may_be_goes_to_the_spool_in_parts(path: str, world_committed: Any) -> None:
    world_committed.app("shop")
    parts: list[bytes | None] = [bytes([number]) * MIB for number in range(5)]
    whole = b"".join(part for part in parts if part)
    assert len(whole) > MAX_BODY
    sender = Sender(f"{path}?tag=1.0", parts, authorization=_token(world_committed.alice))
    told = sender.run()
    assert (sender.status, told["received_bytes"]) == (202, len(whole))
    assert spool.received(Upload.objects.get().uid).read_bytes() == whole
    # uvicorn would take what it finds there along to the connection's next request.
    assert sender.known == set(), "the connection is read outside of the request's context"


@pytest.mark.parametrize("name", ["vera", "charlie", None])
def test_nothing_is_read_of_who_may_not_push(name: str | None, world_committed: Any) -> None:
    world_committed.app("shop")
    headers = {"authorization": _token(getattr(world_committed, name))} if name else {}
    sender = Sender(f"{PATH}?tag=1.0", [b"x"] * 10, **headers)
    sender.run()
    assert sender.status in (401, 403, 404)
    assert sender.asked == 0


def test_too_much_is_refused_unread_where_it_is_announced_and_when_it_is_met_otherwise(
    world_committed: Any, settings: Any
) -> None:
    world_committed.app("shop")
    settings.UPLOAD_MAX_MB = 2
    token = _token(world_committed.alice)
    sender = Sender(f"{PATH}?tag=1.0", [b"x"], authorization=token, content_length=str(3 * MIB))
    assert (sender.run()["code"], sender.status, sender.asked) == ("uploads.too_large", 413, 0)
    sender = Sender(f"{PATH}?tag=1.0", [bytes(MIB)] * 50, authorization=token)
    assert (sender.run()["code"], sender.status) == ("uploads.too_large", 413)
    assert sender.asked < 6
    assert not list(spool.directory().glob("*.upload"))


def test_a_sender_that_goes_or_falls_silent_leaves_nothing(world_committed: Any, settings: Any) -> None:
    world_committed.app("shop")
    settings.UPLOAD_IDLE_S = 1
    token = _token(world_committed.alice)
    announced = {"content_length": "500"}
    for parts, more in (([b"x" * 100, None], announced), ([b"x" * 100, b"y"], announced), ([b"x" * 100, None], {})):
        sender = Sender(f"{PATH}?tag=1.0", list(parts), authorization=token, **more)
        told = sender.run()
        assert told["code"] == "uploads.interrupted"
    silent = Sender(f"{PATH}?tag=1.0", [b"x"], authorization=token)
    real = silent.receive

    async def once() -> dict[str, Any]:
        message = await real()
        return {**message, "more_body": True}

    silent.receive = once  # type: ignore[method-assign]
    assert silent.run()["code"] == "uploads.interrupted"
    assert set(Upload.objects.values_list("status", flat=True)) == {"failed"}
    assert not list(spool.directory().glob("*.upload"))


@pytest.mark.parametrize(
    "path", ["/api/v1/apps/shop/", "/api/v1/apps/shop/uploads/x", "/api/v1/apps/a/b/uploads/", "/"]
)
def test_only_uploads_may_be_large(path: str, db: None) -> None:
    sender = Sender(path, [b"x"], content_length=str(MAX_BODY + 1))
    sender.run()
    assert sender.status == 413
