"""The watcher: events of hosts that come, go, break off and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from apps.core import jobs
from apps.core.models import Duty
from apps.deployments.models import Instance
from apps.deployments.reconcile.watching import HostWatch, Watcher
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import EventKind
from apps.hosts.models import Host

Status = Instance.Status


def eventually(check: Callable[[], object], seconds: float = 20) -> None:
    tick = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if check():
            return
        tick.wait(0.02)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture
def world(world_committed):
    """The threads of the watcher have connections of their own."""
    return world_committed


@pytest.fixture
def serving(app, world, loop):
    deploy(app, world)
    loop.settle()
    return list(Instance.objects.filter(status=Status.HEALTHY).order_by("pk"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.watching.BACKOFF_S", (0.01, 0.05))


@pytest.fixture
def watcher(loop):
    made = []

    def make(**values):
        made.append(Watcher(loop.clients, **{"limit": 10, "lookers": 2, **values}))
        return made[-1]

    yield make
    for one in made:
        one.close()
        eventually(lambda one=one: not any(watch.alive for watch in one._watches.values()))


def following(world, *hosts):
    return all(world.engine_of(host).calls["events"] for host in hosts)


def container(world, instance):
    engine = world.engine_of(instance.host)
    return engine, next(one for one in engine.containers.values() if one.observed.instance == instance.short_id)


def crash(world, instance):
    engine, one = container(world, instance)
    engine.crash(one.observed.name)


def failed(instance):
    return Instance.objects.filter(pk=instance.pk, status=Status.FAILED).exists()


def test_a_crash_is_unrouted_when_it_happens(serving, world, hosts, watcher, discovery):
    assert watcher().turn()
    eventually(lambda: following(world, *hosts))
    victim, other = serving
    crash(world, victim)
    eventually(lambda: {container for _, container in discovery.nodes["shop"]} == {other.container_id})
    assert failed(victim)


def test_what_happened_while_the_stream_was_broken_is_seen_when_it_is_back(serving, world, hosts, watcher):
    watcher().turn()
    eventually(lambda: following(world, *hosts))
    victim, _ = serving
    engine = world.engine_of(victim.host)
    engine.unreachable = True
    engine.break_streams()
    before = engine.calls["events"]
    crash(world, victim)
    assert not failed(victim)
    engine.unreachable = False
    eventually(lambda: failed(victim))
    eventually(lambda: engine.calls["events"] > before)


def test_a_stream_that_broke_is_opened_again_from_the_last_event_on(serving, world, loop, monkeypatch, nudges):
    victim, _ = serving
    engine, one = container(world, victim)
    told, since = [], []
    real = type(loop.clients.engine(victim.host)).events

    def events(self, platform, *, since: float | None, stop):
        asked.append(since)
        return real(self, platform, since=since, stop=stop)

    asked = since
    monkeypatch.setattr("apps.hosts.engines.memory.MemoryEngine.events", events)
    watch = HostWatch(victim.host_id, loop.clients, lambda _, short: told.append(short))
    watch.start()
    try:
        eventually(lambda: asked)
        engine.say(one, EventKind.START)
        engine.say(one, EventKind.DIE)
        eventually(lambda: told == [victim.short_id])
        last = float(engine.spoken)
        nudges.clear()
        engine.break_streams()
        eventually(lambda: len(asked) >= 2)
    finally:
        watch.stop()
        eventually(lambda: not watch.alive)
    assert asked[:2] == [None, last]
    assert told == [victim.short_id], "a start is no end, and nothing is told twice"
    assert (jobs.OBSERVE_HOST, (victim.host_id,)) in nudges


def test_a_broker_that_hangs_keeps_no_crash_waiting(serving, world, hosts, watcher, monkeypatch):
    hangs, sent = threading.Event(), []
    monkeypatch.setattr("apps.core.jobs._send", lambda *nudge: (hangs.wait(30), sent.append(nudge)))
    one = watcher(lookers=1)
    try:
        one.turn()
        eventually(lambda: following(world, *hosts))
        for instance in serving:
            crash(world, instance)
        eventually(lambda: failed(serving[0]) and failed(serving[1]))
        assert sent == []
    finally:
        hangs.set()
    app = serving[0].app_id
    eventually(lambda: (jobs.RECONCILE_APP, (app,)) in sent)


def test_what_ended_before_the_watcher_began_is_found(serving, world, watcher):
    victim, other = serving
    crash(world, victim)
    watcher().turn()
    eventually(lambda: failed(victim))
    assert not failed(other)


def test_a_flood_of_lies_and_strangers_changes_nothing(serving, world, hosts, watcher):
    watcher().turn()
    eventually(lambda: following(world, *hosts))
    victim, other = serving
    engine, one = container(world, victim)
    for _ in range(50):
        engine.say(one, EventKind.OOM)
        engine.say(one, EventKind.DIE, 137)
    stranger = engine.create(_spec_of_nobody(one))
    engine.say(stranger, EventKind.DIE, 1)
    # The second host's truth comes after all of that in the watcher's one queue.
    crash(world, other)
    eventually(lambda: failed(other))
    assert not failed(victim)


def _spec_of_nobody(one):
    from apps.hosts.engines.base import ContainerSpec, ImageRef, Limits

    image = ImageRef("registry.test:5000", "shop", f"sha256:{'a' * 64}")
    limits = Limits(memory_mb=64, cpu_millis=100)
    return ContainerSpec(one.platform, one.tenant, "shop", 1, "abcdefabcdef", image, 8080, "127.0.1.1", 29000, limits)


def test_hosts_that_come_are_followed_and_removed_ones_are_not(world, hosts, watcher):
    one = watcher()
    one.turn()
    assert one.hosts == {host.pk for host in hosts}
    new = world.host()
    gone = hosts[0]
    Host.objects.filter(pk=gone.pk).update(status=Host.Status.REMOVED)
    one.turn()
    assert one.hosts == {hosts[1].pk, new.pk}
    eventually(lambda: following(world, new))
    assert not Duty.objects.filter(name=f"watch:{gone.pk}").exists()


def test_two_watchers_divide_the_hosts_and_one_that_ends_leaves_its_own_to_the_other(world, hosts, watcher):
    one, other = watcher(limit=1), watcher(limit=2)
    one.turn()
    other.turn()
    assert (len(one.hosts), len(other.hosts)) == (1, 1)
    one.close()
    other.turn()
    assert other.hosts == {host.pk for host in hosts}


def test_a_host_that_does_not_answer_is_tried_again_until_it_does(world, hosts, watcher, serving):
    engine = world.engine_of(hosts[0])
    engine.unreachable = True
    watcher().turn()
    eventually(lambda: following(world, hosts[1]))
    assert not following(world, hosts[0])
    engine.unreachable = False
    eventually(lambda: following(world, hosts[0]))


def test_the_end_of_a_look_that_fails_is_not_the_end_of_the_watcher(serving, world, hosts, watcher, monkeypatch):
    from apps.deployments.reconcile import hosts as module

    real, broken = module.publish, []

    def publish(*arguments):
        if not broken:
            broken.append(True)
            raise ZeroDivisionError
        return real(*arguments)

    monkeypatch.setattr(module, "publish", publish)
    watcher(lookers=1).turn()
    eventually(lambda: following(world, *hosts))
    for instance in serving:
        crash(world, instance)
    eventually(lambda: failed(serving[0]) and failed(serving[1]))
