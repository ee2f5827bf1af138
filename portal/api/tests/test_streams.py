"""Event streams, through the ASGI application as a server would call it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.db import connections
from django.test import Client
from rest_framework.test import APIClient

from apps.core import events
from apps.core.models import Event
from apps.deployments.models import App
from apps.tenants.models import ApiToken, Membership, Tenant
from apps.tenants.services.tokens import token_create
from portal.api import feed as feeds
from portal.api import streams

DEADLINE_S = 8.0
APP, TENANT = "/api/v1/apps/shop/events/stream/", "/api/v1/tenants/acme/events/stream/"


class Visit:
    """One request for a stream; what came back so far."""

    def __init__(self, path, headers=None):
        path, _, query = path.partition("?")
        self._left = asyncio.Event()
        self._asked = False
        self.status, self.headers, self.body, self.over = 0, {}, b"", False
        lines = {"host": "testserver", "accept": "text/event-stream", **(headers or {})}
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        self._task = asyncio.create_task(get_asgi_application()(self._scope, self._receive, self._send))

    async def _receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.over = not message.get("more_body", False)

    @property
    def told(self):
        """(id or None, data) of each event so far."""
        found = []
        for block in self.body.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in lines:
                found.append((int(lines["id"]) if "id" in lines else None, json.loads(lines["data"])))
        return found

    @property
    def codes(self):
        return [data["code"] for _, data in self.told]

    async def until(self, condition, within=DEADLINE_S):
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"{self.status} {self.body!r}"
            await asyncio.sleep(0.02)

    async def leave(self):
        self._left.set()
        await asyncio.wait_for(self._task, DEADLINE_S)


@asynccontextmanager
async def visit(path=APP, user=None, headers=None):
    """A stream that has begun, or an answer that is over."""
    secret = {"authorization": f"Bearer {user}"} if user else {}
    one = Visit(path, {**secret, **(headers or {})})
    try:
        await one.until(lambda: one.over or b"retry:" in one.body)
        yield one
    finally:
        await one.leave()


def run(test):
    """Run the coroutine; whatever it left in threads is closed."""

    async def all_of_it():
        try:
            await test()
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(all_of_it())


async def record(code, app=None, **values):
    about = {"app_id": app.pk, "tenant_id": app.tenant_id} if app is not None else {}
    return await feeds.in_thread(lambda: events.record(code, f"{code}.", **{**about, **values}))


async def later(work):
    return await feeds.in_thread(work)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(feeds, "POLL_S", 0.05)
    monkeypatch.setattr(streams, "slots", streams.Slots())


@pytest.fixture
def world(world_committed):
    return world_committed


@pytest.fixture
def app(world):
    return world.app("shop")


@pytest.fixture
def tokens(world):
    people = ("alice", "bob", "vera", "charlie")
    return {name: token_create(user=getattr(world, name), name="test")[1] for name in people}


def test_what_happens_is_told_as_it_happens_with_its_id(world, app, tokens):
    async def test():
        async with visit(user=tokens["vera"]) as one:
            assert (one.status, one.headers["content-type"]) == (200, "text/event-stream")
            assert one.headers["cache-control"] == "no-store, no-transform"
            event = await record("instance.ready", app, actor="bob", text="a\nb")
            await one.until(lambda: "instance.ready" in one.codes)
            ((pk, data),) = [told for told in one.told if told[1]["code"] == "instance.ready"]
            assert pk == data["id"] == event.pk
            assert (data["app"], data["actor"], data["detail"]) == ("shop", "bob", {"text": "a\nb"})

    run(test)


def test_an_apps_stream_has_its_own_events_and_pushes_and_a_tenants_all_of_its_own(world, app, tokens):
    other, foreign = world.app("blog"), world.app("theirs", tenant=world.rival, by=world.charlie)

    async def test():
        async with visit(user=tokens["bob"]) as one, visit(TENANT, tokens["bob"]) as all_of_it:
            await record("one", app)
            await record("other", other)
            await record("foreign", foreign)
            await record("host.ready")
            await later(lambda: world.push(other))
            await later(lambda: world.push(app))
            await record("last", app)
            await one.until(lambda: "last" in one.codes)
            await all_of_it.until(lambda: "last" in all_of_it.codes)
            assert [code for code in one.codes if code != "app.created"] == ["one", "version.pushed", "last"]
            assert [code for code in all_of_it.codes if code not in ("app.created", "tenant.member_added")][-5:] == [
                *("one", "other", "version.pushed", "version.pushed", "last"),
            ]

    run(test)


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_a_stream_resumes_after_the_last_id_without_loss_and_without_repetition(world, app, tokens, how, monkeypatch):
    monkeypatch.setattr(streams, "PAGE", 3)
    # Else the feed begins a moment back, and history is not needed.
    monkeypatch.setattr(feeds, "GAP_S", 0.0)

    async def test():
        seen = []
        async with visit(user=tokens["bob"]) as one:
            await record("e0", app)
            await one.until(lambda: "e0" in one.codes)
            seen += one.told
        for number in range(1, 9):
            await record(f"e{number}", app)
        last = seen[-1][0]
        headers = {"last-event-id": str(last)} if how != "query" else {}
        path = f"{APP}?after={last if how == 'query' else 0}" if how != "header" else APP
        async with visit(path, tokens["bob"], headers) as one:
            await record("e9", app)
            await one.until(lambda: "e9" in one.codes)
            seen += one.told
        codes = [data["code"] for _, data in seen if data["code"].startswith("e")]
        assert codes == [f"e{number}" for number in range(10)]
        ids = [pk for pk, _ in seen]
        assert ids == sorted(set(ids))

    run(test)


def test_a_stream_that_was_told_nothing_yet_resumes_where_it_began(world, app, tokens, monkeypatch):
    monkeypatch.setattr(feeds, "GAP_S", 0.0)

    async def test():
        async with visit(user=tokens["bob"]) as one:
            began = one.body.decode().split("id: ")[1].split("\n")[0]
        await record("meanwhile", app)
        async with visit(user=tokens["bob"], headers={"last-event-id": began}) as one:
            await one.until(lambda: "meanwhile" in one.codes)

    run(test)


def test_an_id_that_commits_after_a_larger_one_is_told_before_it(world, app, tokens, monkeypatch):
    top = Event.objects.order_by("-pk").first().pk

    def event(pk, code):
        return later(lambda: Event.objects.create(pk=pk, code=code, message="", app_id=app.pk))

    async def test():
        async with visit(user=tokens["bob"]) as one:
            await event(top + 2, "second")
            await record_after_polls(3)
            assert "second" not in one.codes, "it waits for what may come before it"
            await event(top + 1, "first")
            await one.until(lambda: "second" in one.codes)
            assert [told for told in one.codes if told in ("first", "second")] == ["first", "second"]
            monkeypatch.setattr(feeds, "GAP_S", 0.1)
            await event(top + 4, "fourth")
            await one.until(lambda: "fourth" in one.codes)
            await event(top + 3, "third")
            await one.until(lambda: "third" in one.codes)
            assert one.told[-1][0] is None, "an id would lead a resuming client back"

    async def record_after_polls(count):
        before = feeds.feed()._polls
        deadline = time.monotonic() + DEADLINE_S
        while feeds.feed()._polls < before + count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    run(test)


def test_an_id_from_the_future_is_no_reason_to_tell_nothing(world, app, tokens):
    async def test():
        async with visit(f"{APP}?after={10**15}", tokens["bob"]) as one:
            await record("now", app)
            await one.until(lambda: "now" in one.codes)

    run(test)


@pytest.mark.parametrize(
    "ending",
    {
        "member": lambda world: Membership.objects.filter(user=world.bob).delete(),
        "token": lambda world: ApiToken.objects.filter(user=world.bob).delete(),
        "person": lambda world: type(world.bob).objects.filter(pk=world.bob.pk).update(is_active=False),
        "tenant": lambda world: Tenant.objects.filter(pk=world.acme.pk).update(is_active=False),
        "app": lambda world: App.objects.all().delete(),
    }.items(),
    ids=lambda item: item[0],
)
def test_whoever_may_not_see_it_any_more_is_cut_off_within_five_seconds(world, app, tokens, ending):
    async def test():
        async with visit(user=tokens["bob"]) as one:
            await later(lambda: ending[1](world))
            await one.until(lambda: one.over, within=5.0)
        async with visit(user=tokens["bob"]) as one:
            assert one.status in (401, 404)

    run(test)


def test_a_browser_reads_with_its_session_until_it_signs_out(world, app):
    client = Client()
    client.force_login(world.bob, backend="django.contrib.auth.backends.ModelBackend")
    cookie = {"cookie": f"sessionid={client.cookies['sessionid'].value}"}

    async def test():
        async with visit(headers=cookie) as one:
            await record("seen", app)
            await one.until(lambda: "seen" in one.codes)
            await later(lambda: client.post("/logout/"))
            await one.until(lambda: one.over, within=5.0)
        async with visit(headers=cookie) as one:
            assert (one.status, json.loads(one.body)["code"]) == (401, "auth.required")

    run(test)


@pytest.mark.parametrize("path", [APP, TENANT])
def test_strangers_and_signed_out_people_get_no_stream(world, app, tokens, path):
    async def test():
        async with visit(path, tokens["charlie"]) as one:
            problem = json.loads(one.body)
            assert (one.status, one.headers["content-type"]) == (404, "application/problem+json")
            assert problem["code"].endswith(".not_found")
        async with visit(path) as one:
            assert (one.status, json.loads(one.body)["code"]) == (401, "auth.required")
            assert "Bearer" in one.headers["www-authenticate"]

    run(test)


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "1" * 19])
def test_what_is_no_id_is_refused(world, app, tokens, after):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens['bob']}")
    for reply in (client.get(APP, {"after": after}), client.get(APP, headers={"last-event-id": after})):
        assert (reply.status_code, reply.json()["code"]) == (400, "request.invalid")


def test_one_person_has_so_many_streams_and_one_that_ends_makes_room(world, app, tokens, settings):
    settings.STREAMS_PER_USER = 2

    async def test():
        async with visit(user=tokens["bob"]), visit(TENANT, tokens["alice"]):
            async with visit(TENANT, tokens["bob"]), visit(user=tokens["bob"]) as third:
                assert (third.status, json.loads(third.body)["code"]) == (429, "events.too_many_streams")
            async with visit(user=tokens["bob"]) as again:
                assert again.status == 200

    run(test)


def test_silence_is_broken_by_a_comment_and_a_stream_ends_after_its_time(world, app, tokens, monkeypatch):
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(streams, "LIFE_S", 0.5)

    async def test():
        async with visit(user=tokens["bob"]) as one:
            await one.until(lambda: one.over)
            assert b"\n\n:\n\n" in one.body

    run(test)


def test_streams_that_wait_hold_no_thread_and_ask_the_database_together(world, app, tokens, settings, monkeypatch):
    settings.STREAMS_PER_USER = 100
    asked = []
    read = feeds._read
    monkeypatch.setattr(feeds, "_read", lambda order: asked.append(1) or read(order))

    async def test():
        async with visit(user=tokens["bob"]) as one:
            await record("warm", app)
            await one.until(lambda: "warm" in one.codes)
            before = threading.active_count()
            many = [Visit(APP, {"authorization": f"Bearer {tokens['bob']}"}) for _ in range(30)]
            for other in many:
                await other.until(lambda other=other: b"retry:" in other.body)
            asked.clear()
            began = time.monotonic()
            await record("for.all", app)
            for other in many:
                await other.until(lambda other=other: "for.all" in other.codes)
            assert len(asked) <= (time.monotonic() - began) / feeds.POLL_S + 2
            # The loop's own pool may have grown by the few that began at the same time; theirs are gone.
            pool = sum(thread.name.startswith("asyncio_") for thread in threading.enumerate())
            assert threading.active_count() - pool <= before
            assert feeds.feed().readers == 31
            for other in many:
                await other.leave()
            await one.until(lambda: feeds.feed().readers == 1)
        assert feeds.feed().readers == 0
        assert feeds.feed()._tasks == []

    run(test)


def test_a_reader_that_is_too_slow_is_ended_and_not_kept_in_memory():
    async def test():
        reader = feeds.Reader(lambda event: True, lambda: True)
        news = [feeds.News(Event(pk=number), "") for number in range(feeds.QUEUE + 1)]
        assert reader.tell(news) is False
        reader.end()
        assert reader.queue.get_nowait() is None

    asyncio.run(test())


def test_while_the_database_is_away_nothing_is_told_and_nobody_is_cut_off(world, app, tokens, monkeypatch):
    from django.db import OperationalError

    def away(*_):
        raise OperationalError("away")

    read = feeds._read

    async def test():
        async with visit(user=tokens["bob"]) as one:
            monkeypatch.setattr(feeds, "_read", away)
            # A poll that was under way may see the event yet; the next one has begun when it is over.
            polls = feeds.feed()._polls
            await one.until(lambda: feeds.feed()._polls > polls)
            await record("during", app)
            polls = feeds.feed()._polls
            await one.until(lambda: feeds.feed()._polls > polls + 2)
            assert "during" not in one.codes
            monkeypatch.setattr(feeds, "_read", read)
            await one.until(lambda: "during" in one.codes)

    run(test)
