"""Probing all day long: over real sockets, with the clock of this machine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from apps.core.duties import done, due
from apps.core.jobs import PROBE_SHARD
from apps.deployments.checks import Check, Kind
from apps.deployments.models import Instance
from apps.deployments.reconcile import Clients, probe_shard
from apps.deployments.reconcile.commands import Command, Commands
from apps.deployments.reconcile.shards import Probing, first_after
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import CommandResult, EngineUnreachable
from apps.hosts.models import Host

Status = Instance.Status


class Site:
    """An app on loopback: answers by path, and remembers when it was asked what."""

    def __init__(self) -> None:
        self.statuses = {}
        self.asked = []
        self.release = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, time.time()))
                if site.statuses.get(self.path) == "hang":
                    site.release.wait(30)
                    return
                self.send_response(site.statuses.get(self.path, 200))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def times(self, path: str) -> list[float]:
        return [at for one, at in self.asked if one == path]


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def running(app, world, loop, site):
    """Deploys an app whose instances run, and are at the site."""

    def run(instances=1, status=Status.HEALTHY, **values):
        deploy(app, world, instances=instances, **values)
        loop.settle()
        Host.objects.update(address="127.0.0.1")
        Instance.objects.update(port=site.port, status=status)
        return list(Instance.objects.order_by("pk"))

    return run


def _evenly(times):
    """A second apart, as far as a busy machine lets them be."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) >= 1
    assert all(0.5 < gap < 1.6 for gap in gaps), gaps


# Below the 3 s after which a lease is renewed: by a connection of its own, which SQLite would keep waiting here.
@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.shards.PASS_S", 2.4)


def test_each_instance_is_asked_at_its_own_interval_over_passes(
    running, site, nudges, django_capture_on_commit_callbacks
):
    running(readiness={"path": "/up", "interval_s": 1})
    for _ in range(2):
        with django_capture_on_commit_callbacks(execute=True):
            assert probe_shard(Clients(), 0) in (2, 3)
    times = site.times("/up")
    assert 4 <= len(times) <= 6
    _evenly(times)
    assert nudges.count((PROBE_SHARD, (0,))) == 2, "each calls for the next"


def test_what_a_pass_left_unasked_the_next_one_makes_up_for(running, site, monkeypatch):
    (one,) = running(readiness={"path": "/up", "interval_s": 2})
    monkeypatch.setattr("apps.deployments.reconcile.shards.PASS_S", 0.3)
    missed = first_after(one.pk, False, 2, time.time())
    done_until = missed - 0.1
    while time.time() < missed + 0.2:
        threading.Event().wait(0.02)
    with due("probe-0", every_s=0):
        pass
    done("probe-0", at=datetime.fromtimestamp(done_until, UTC))
    began = time.time()
    probe_shard(Clients(), 0)
    assert any(at - began < 0.3 for at in site.times("/up"))


def test_one_pass_at_a_time_and_each_shard_asks_its_own(running, site, settings):
    settings.PROBE_SHARDS = 2
    many = running(instances=4, readiness={"path": "/up", "interval_s": 1})
    with due("probe-0", every_s=0) as mine:
        assert mine
        assert probe_shard(Clients(), 0) == 0
    asked = Counter()
    for shard in (0, 1):
        probing = Probing(Clients(), shard, 2)
        probing.on_ask = lambda key, _at, shard=shard: asked.update([(shard, key // 4)])
        probing.go_on(time.time(), time.time() + 1.2, lambda: False)
        probing.wait(lambda: False)
        probing.close()
    assert {pk for _, pk in asked} == {one.pk for one in many}
    assert all(pk % 2 == shard for shard, pk in asked)
    assert probe_shard(Clients(), 2) == 0, "a message from before there were fewer shards"


def test_a_target_that_never_answers_delays_no_other_and_is_asked_once_at_a_time(running, site, monkeypatch):
    running(readiness={"path": "/up", "interval_s": 1}, liveness={"path": "/hang", "interval_s": 2, "timeout_s": 2})
    site.statuses["/hang"] = "hang"
    probe_shard(Clients(), 0)
    _evenly(site.times("/up"))
    assert 1 <= len(site.times("/hang")) <= 2


def test_one_that_hangs_for_its_whole_interval_is_asked_again_at_its_end_and_not_an_interval_later(
    running, site, monkeypatch
):
    # Long enough for two turns wherever in its second it begins.
    monkeypatch.setattr("apps.deployments.reconcile.shards.PASS_S", 2.9)
    running(readiness={"path": "/hang", "interval_s": 1, "timeout_s": 1})
    site.statuses["/hang"] = "hang"
    probe_shard(Clients(), 0)
    gaps = [later - earlier for earlier, later in pairwise(site.times("/hang"))]
    assert gaps
    # Two intervals apart, if the next turn were missed. A machine that stands still gives what is asked more time.
    assert all(gap < 1.9 for gap in gaps), gaps


def test_an_answer_that_came_after_the_pass_is_noted_all_the_same(running, site, monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.shards.PASS_S", 1.2)
    (one,) = running(readiness={"path": "/hang", "interval_s": 1})
    site.statuses["/hang"] = "hang"
    probe_shard(Clients(), 0)
    one.refresh_from_db()
    assert one.failures >= 1
    assert one.last_check == "GET /hang on port 8080: no answer within 1 s"


def test_enough_failures_in_a_row_condemn_and_a_good_answer_readies(running, site, monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.probes.CLOCKS_APART_S", -60)
    (bad,) = running(readiness={"path": "/bad", "interval_s": 1, "failures": 2})
    site.statuses["/bad"] = 500
    probe_shard(Clients(), 0)
    bad.refresh_from_db()
    assert (bad.status, bad.code) == (Status.UNHEALTHY, "instance.unhealthy")
    assert "the last: it answered 500" in bad.reason
    site.statuses.clear()
    Instance.objects.update(status=Status.RUNNING, deadline_at=None)
    probe_shard(Clients(), 0)
    bad.refresh_from_db()
    assert (bad.status, bad.code) == (Status.HEALTHY, "")


def test_a_worker_that_is_to_stop_stops(running, site, monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.shards.PASS_S", 60)
    running(readiness={"path": "/hang", "interval_s": 60, "timeout_s": 60})
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    began = time.monotonic()
    probe_shard(Clients(), 0, stopping=stop.is_set)
    assert time.monotonic() - began < 5
    timer.join()


def test_commands_are_asked_through_the_engine(running, world, site):
    (one,) = running(readiness={"command": ["/bin/ok"], "interval_s": 1})
    engine = world.engine_of(one.host)
    before = engine.calls["check"]
    probe_shard(Clients(), 0)
    assert engine.calls["check"] - before in (2, 3)


@pytest.mark.parametrize("serves", [True, False])
def test_on_a_silent_host_a_command_is_not_tried_but_whether_the_port_is_open_is_seen(running, world, site, serves):
    (one,) = running(readiness={"command": ["/bin/ok"], "interval_s": 1})
    Host.objects.update(status="down")
    if not serves:
        Instance.objects.update(port=1)
    before = world.engine_of(one.host).calls["check"]
    probe_shard(Clients(), 0)
    one.refresh_from_db()
    assert world.engine_of(one.host).calls["check"] == before
    assert (one.status, bool(one.failures)) == (Status.HEALTHY, not serves)


def test_instants_are_spread_evenly_and_an_interval_apart():
    at = 1_800_000_000.0
    first = [first_after(pk, False, 10, at) for pk in range(1000)]
    assert all(at < one <= at + 10 for one in first)
    assert all(abs(first_after(pk, False, 10, one) - one - 10) < 1e-6 for pk, one in enumerate(first))
    each_second = Counter(int(one - at) for one in first)
    assert max(each_second.values()) < 110


class Hung:
    """An engine whose commands wait."""

    def __init__(self, gate):
        self.gate = gate
        self.began = 0

    def check(self, name, command, *, timeout_s):
        self.began += 1
        self.gate.wait(30)
        raise EngineUnreachable("no answer")


class Well:
    def check(self, name, command, *, timeout_s):
        return CommandResult(0)


def test_engines_that_hang_leave_threads_to_the_others():
    gate = threading.Event()
    check = Check(kind=Kind.COMMAND, command=("x",))
    hung, commands = Hung(gate), Commands(threads=4, per_host=2)
    try:
        for pk in range(10):
            commands.ask(Command(pk, 1, "berth-x", check, pk), hung)
        commands.ask(Command(99, 2, "berth-y", check, 99), Well())
        deadline = time.monotonic() + 5
        found = []
        while not found and time.monotonic() < deadline:
            found = commands.answers()
            threading.Event().wait(0.01)
        assert [(command.pk, wrong) for command, wrong in found] == [(99, None)]
        assert hung.began == 2
        commands.forget_waiting()
        assert len(commands) == 2
    finally:
        gate.set()
        commands.close()


def test_one_tenants_slow_commands_leave_threads_to_the_others_on_its_hosts_and_elsewhere():
    gate = threading.Event()
    check = Check(kind=Kind.COMMAND, command=("x",))
    hung, commands = Hung(gate), Commands(threads=8, per_host=2)
    try:
        for pk in range(60):
            commands.ask(Command(pk, pk % 6, "berth-x", check, 1), hung)
        for host in range(6):
            commands.ask(Command(100 + host, host, "berth-y", check, 2), Well())
        deadline = time.monotonic() + 5
        found = []
        while len(found) < 6 and time.monotonic() < deadline:
            found += commands.answers()
            threading.Event().wait(0.01)
        assert {command.pk for command, _ in found} == set(range(100, 106))
        assert hung.began == 4
        gate.set()
        deadline = time.monotonic() + 5
        while len(commands) and time.monotonic() < deadline:
            found += commands.answers()
            threading.Event().wait(0.01)
        assert len(found) == 66
    finally:
        gate.set()
        commands.close()
