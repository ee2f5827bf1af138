"""A hostile tenant against what releases, rollouts, checks and capsules take and tell."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from django.db import connection
from django.db.models import Model
from django.test.utils import CaptureQueriesContext

from apps.core.clock import after
from apps.core.models import Event
from apps.deployments.checks import Check, Kind
from apps.deployments.models import Instance, Release, Rollout
from apps.deployments.reconcile import reconcile_app, reconcile_instance
from apps.deployments.reconcile import starting as loop_of_starts
from apps.deployments.reconcile.answers import MAX_BODY, Wrong, judged
from apps.deployments.reconcile.containers import start_failed
from apps.deployments.reconcile.logtext import MASK, SIZE, masked, readable
from apps.deployments.reconcile.probes import probe_pass
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_cancel, rollout_start
from apps.deployments.services.scaling import app_scale
from apps.hosts.engines import docker_check
from apps.hosts.engines.base import MAX_CHECK_OUTPUT, ImageUnavailable, SpecRefused
from apps.hosts.engines.memory import MemoryEngine
from tests.security.test_abuse import _api

PASSWORD = "correct-horse"
Status = Instance.Status


@pytest.fixture
def shop(world, loop):
    """One that runs, with a secret."""
    world.host()
    app = world.app()
    world.push(app)
    asked = ReleaseSettings(secrets={"PASSWORD": PASSWORD}, settings={"REGION": "frankfurt"})
    rollout_start(app=app, version="1.0", by=world.alice, settings_=asked)
    loop.settle()
    assert Instance.objects.get().status == Status.HEALTHY
    return app


# Numbers and texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["9" * 5000, "9" * 30, "-1", "\u00b2", "1.0", "x"])
def test_a_release_to_compare_with_that_is_no_number_is_not_found(world, shop, old):
    reply = _api(world.alice).get("/api/v1/apps/shop/releases/1/diff/", {"old": old})
    assert (reply.status_code, reply.json()["code"]) == (404, "releases.not_found")


@pytest.mark.parametrize(
    "body", [r'{"env": {"\ud800": [1]}}', r'{"strategy": "\ud800"}', r'{"readiness": {"kind": "\udfff"}}']
)
def test_halves_of_letters_are_refused_in_words_that_can_be_written(world, shop, body):
    client = _api(world.alice)
    client.raise_request_exception = False
    body = '{"version": "1.0", ' + body[1:]
    reply = client.generic("POST", "/api/v1/apps/shop/rollouts/", body, content_type="application/json")
    assert reply.status_code == 400, reply.content
    assert reply.json()["code"] == "request.invalid"


# Secrets ----------------------------------------------------------------------------------------------------------


def test_what_a_check_saw_holds_no_secret_for_who_may_only_look(world, shop, loop):
    seen = f"HTTP/1.1 500 x\nkey={PASSWORD} region=frankfurt {PASSWORD[:9]}"
    loop.clients.probe = lambda targets: {one.pk: Wrong("it answered 500", seen) for one in targets}
    probe_pass(loop.clients)
    told = _api(world.vera).get("/api/v1/apps/shop/instances/").json()["results"][0]
    assert told["last_check"].endswith(f"key={MASK} region=frankfurt {MASK}")
    assert PASSWORD[:9] not in json.dumps(told)


@pytest.mark.parametrize(
    "written",
    [
        base64.b64encode(PASSWORD.encode()).decode(),
        base64.b64encode(f"user:{PASSWORD}".encode()).decode(),
        base64.b64encode(f"u:{PASSWORD}@host".encode()).decode(),
        base64.urlsafe_b64encode(f"us:{PASSWORD}\xff\xfe".encode()).decode(),
        PASSWORD.encode().hex(),
        PASSWORD.encode().hex().upper(),
        quote("&" + PASSWORD),
    ],
)
def test_a_secret_is_hidden_in_the_encodings_of_headers_and_addresses(written):
    assert MASK in masked(f"Authorization: {written}", [PASSWORD])
    assert MASK in masked(f"see /?token={quote(PASSWORD + '/&x', safe='')} there", [PASSWORD + "/&x"])


def test_the_password_of_a_connection_url_is_hidden_without_the_url():
    url = "postgres://app:p%40ss-word@db:5432/app"
    assert masked("no entry for app with p@ss-word, p%40ss-word", [url]) == f"no entry for app with {MASK}, {MASK}"


def test_a_secret_of_thousands_of_lines_costs_a_capsule_a_moment():
    lines = [f"{number:06d}" for number in range(9000)]
    secret = "\n".join(lines)
    began = time.process_time()
    assert readable(b"x" * 1024 * 1024, [secret])[0] == "x" * SIZE
    assert readable(("\n".join(lines) * 16).encode(), [secret])[0] == MASK
    # 20 s each, where every line of it had the whole text searched.
    assert time.process_time() - began < 5


def test_the_end_of_a_secret_at_the_beginning_of_what_is_looked_at_is_not_kept():
    secret = "q" * 5000
    raw = (secret + "y" * (4 * SIZE - 2500)).encode()
    assert "q" not in readable(raw, [secret])[0]


# Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ImageUnavailable("Get https://10.9.8.7:5443/v2/: dial tcp 10.0.0.12:49152->10.9.8.7:5443: connect: refused"),
        ImageUnavailable("lookup registry.internal on 10.0.0.2:53: no such host"),
        SpecRefused("manifest for registry.internal:5443/shop has no match; asked 10.0.0.2:53, fd00:1::2 and [::1]:53"),
    ],
)
def test_why_an_instance_could_not_start_names_no_machine(world, shop, settings, error):
    settings.REGISTRY_FOR_HOSTS = "registry.internal:5443"
    Instance.objects.update(status=Status.STARTING, deadline_at="2020-01-01T00:00:00Z")
    instance = Instance.objects.select_related("host", "app", "replica_set__release").get()
    assert start_failed(instance, error)
    told = json.dumps(_api(world.vera).get("/api/v1/apps/shop/instances/").json()["results"])
    told += json.dumps(_api(world.vera).get("/api/v1/apps/shop/events/").json()["results"])
    for one in ("10.9.8.7", "10.0.0", "internal", "fd00", "::1"):
        assert one not in told


# Checks -----------------------------------------------------------------------------------------------------------


def test_an_answer_that_comes_byte_by_byte_is_not_searched_anew_for_each():
    check = Check(kind=Kind.HTTP, path="/", text="nope-nope")
    got = b"HTTP/1.1 200 OK\r\n\r\n" + b"n" * (MAX_BODY - 3000)
    began = time.process_time()
    for _ in range(2000):
        got += b"n"
        assert judged(check, got, ended=False, seen=len(got) - 1) == (False, None)
    assert time.process_time() - began < 0.15
    assert judged(check, got + b"ope-nope", ended=False, seen=len(got)) == (True, None)


class _Endless:
    """An engine's answer to a command that writes as fast as it is read."""

    status_code = 200

    def __init__(self, clock):
        self.clock, self.raw, self.given = clock, self, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Closed."""

    def post(self, *_, **__):
        return self

    def read1(self, size):
        self.given += size
        self.clock[0] += size / 1e9  # a gigabyte a second, if it is let
        return b"\x01\0\0\0\0\0\xff\xf8" + b"y" * (size - 8)


def test_a_command_that_writes_without_end_is_read_slowly():
    clock = [0.0]

    def rest(seconds):
        clock[0] += seconds

    endless = _Endless(clock)
    asked = docker_check._Session(endless, "http://x", 1, rest)
    assert asked.output("1", 10, lambda: clock[0] >= 10) == b"y" * MAX_CHECK_OUTPUT
    assert endless.given < 100_000_000


# Workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readiness", [{"path": "/", "interval_s": 60, "timeout_s": 60}, {"command": ["x"]}])
def test_who_is_slow_to_become_ready_keeps_no_worker_of_the_others_waiting(world, shop, loop, monkeypatch, readiness):
    asked = ReleaseSettings(readiness={**readiness, "interval_s": 60, "timeout_s": 60})
    rollout_start(app=shop, version="1.0", by=world.alice, settings_=asked)
    starting = Instance.objects.exclude(status=Status.HEALTHY).get()
    waited = []

    def silent(targets):
        waited.extend(one.check.timeout_s for one in targets)
        return {one.pk: Wrong("no answer") for one in targets}

    loop.clients.probe = silent
    monkeypatch.setattr(loop_of_starts, "PATIENCE_S", 2.0)
    monkeypatch.setattr(MemoryEngine, "check", lambda *_, timeout_s, **__: waited.append(timeout_s))
    reconcile_instance(starting.pk, loop.clients)
    starting.refresh_from_db()
    assert starting.status == Status.RUNNING
    assert max(waited, default=0) <= 2


def test_containers_that_do_not_stop_keep_only_some_workers_waiting(world, shop, loop):
    """Each may take its minute of grace, and other tenants' instances are started by the same workers."""
    app_scale(app=shop, instances=5, by=world.alice)
    loop.settle()
    app_scale(app=shop, instances=0, by=world.alice)
    reconcile_app(shop.pk, loop.clients)
    *stopping, last = Instance.objects.filter(status=Status.DRAINING).order_by("pk")
    for one in stopping[:2]:
        Instance.objects.filter(pk=one.pk).update(lease_owner="x", lease_until=after(10))
    reconcile_instance(last.pk, loop.clients)
    last.refresh_from_db()
    assert not last.released
    Instance.objects.update(lease_owner="", lease_until=None)
    loop.settle()
    assert not Instance.objects.filter(released=False).exists()


# Growth -----------------------------------------------------------------------------------------------------------


def test_what_an_app_once_had_costs_nothing_each_time_it_is_looked_at(world, shop, loop, monkeypatch):
    """Each release has up to 64 KiB to decrypt."""
    read = []
    monkeypatch.setattr(Release, "__init__", lambda self, *a, **k: (read.append(1), Model.__init__(self, *a, **k))[1])

    def asked():
        read.clear()
        with CaptureQueriesContext(connection) as captured:
            reconcile_app(shop.pk, loop.clients)
        return len(captured), len(read)

    loop.settle()
    before = asked()
    for _ in range(12):
        rollout = rollout_start(app=shop, version="1.0", by=world.alice)
        rollout_cancel(app=shop, number=rollout.number, by=world.alice)
    loop.settle()
    assert shop.replica_sets.count() == 13
    assert asked() == before


def test_an_app_gets_so_many_rollouts_within_an_hour_and_no_more(world, shop, settings):
    settings.ROLLOUTS_PER_HOUR = 3
    client = _api(world.alice)
    rollouts = "/api/v1/apps/shop/rollouts/"
    for _ in range(2):
        assert client.post(rollouts, {"version": "1.0", "supersede": True}).status_code == 202
    for url, body in (
        (rollouts, {"version": "1.0", "supersede": True}),
        ("/api/v1/apps/shop/rollback/", {"release": 1}),
    ):
        before = Event.objects.count()
        reply = client.post(url, body)
        assert (reply.status_code, reply.json()["code"]) == (429, "rollouts.too_many")
        assert Event.objects.count() == before, "nothing is written about it either"
    assert shop.releases.count() == 3
    Rollout.objects.update(created_at=after(-3601))
    assert client.post(rollouts, {"version": "1.0", "supersede": True}).status_code == 202


def test_refusals_are_not_worked_out_again_and_again(world, shop, monkeypatch):
    monkeypatch.setattr("apps.deployments.services.rollouts.REFUSALS_PER_MINUTE", 2)
    client = _api(world.alice)
    wanted = {"version": "1.0", "supersede": True, "memory_mb": 100_000}
    codes = [client.post("/api/v1/apps/shop/rollouts/", wanted).json()["code"] for _ in range(4)]
    assert codes[2:] == ["rollouts.too_many"] * 2
    assert "rollouts.too_many" not in codes[:2]
    Event.objects.update(at=after(-61))
    assert client.post("/api/v1/apps/shop/rollouts/", {"version": "1.0"}).status_code == 202


def test_an_undeploy_that_is_asked_for_again_is_the_same(world, shop):
    client = _api(world.alice)
    numbers = {client.post("/api/v1/apps/shop/undeploy/").json()["number"] for _ in range(3)}
    assert len(numbers) == 1
