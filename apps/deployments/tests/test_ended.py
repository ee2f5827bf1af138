"""Somebody says that a container ended: what is done at once, and what is not believed."""

from __future__ import annotations

import pytest

from apps.core.models import Event
from apps.deployments.models import App, Instance
from apps.deployments.reconcile import container_ended
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import EventKind

Status = Instance.Status


@pytest.fixture
def serving(app, world, loop):
    """Two instances that serve."""
    deploy(app, world)
    loop.settle()
    return list(Instance.objects.filter(status=Status.HEALTHY).order_by("pk"))


def crash(world, instance, *arguments, **values):
    engine = world.engine_of(instance.host)
    engine.crash(next(iter(engine.containers)), *arguments, **values)


def test_a_crash_is_unrouted_without_a_look_at_the_host_and_without_a_worker(serving, world, loop, discovery):
    victim, other = serving
    crash(world, victim, 3)
    assert container_ended(victim.host_id, victim.short_id, loop.clients)
    victim.refresh_from_db()
    assert (victim.status, victim.code, victim.exit_code) == (Status.FAILED, "instance.exited", 3)
    assert {container for _, container in discovery.nodes["shop"]} == {other.container_id}
    assert App.objects.get().route_published == App.objects.get().route_wanted
    assert not container_ended(victim.host_id, victim.short_id, loop.clients), "the second event finds nothing to do"
    assert Event.objects.filter(code="instance.failed").count() == 1
    loop.settle()
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_nudges_go_out_after_the_route_is_published(world_committed, discovery, monkeypatch, token_key):
    from apps.core import jobs
    from apps.deployments.reconcile import Clients

    world = world_committed
    host, app = world.host(), world.app()
    world.push(app)
    deploy(app, world, instances=1)
    instance = Instance.objects.get()
    Instance.objects.update(status=Status.HEALTHY, was_routed=True, container_id="c" * 64)
    order = []
    monkeypatch.setattr("apps.core.jobs._send", lambda name, ids: order.append(name))
    monkeypatch.setattr(discovery, "publish", lambda *_, **__: order.append("published"))
    assert container_ended(host.pk, instance.short_id, Clients(discovery=discovery))
    assert order[0] == "published"
    assert set(order[1:]) == {jobs.RECONCILE_APP, jobs.RECONCILE_INSTANCE}


def test_a_container_that_somebody_removed_is_missed_at_once(serving, world, loop, discovery):
    victim, other = serving
    world.engine_of(victim.host).containers.clear()
    assert container_ended(victim.host_id, victim.short_id, loop.clients)
    victim.refresh_from_db()
    assert (victim.status, victim.code) == (Status.FAILED, "instance.vanished")
    assert {container for _, container in discovery.nodes["shop"]} == {other.container_id}


def test_a_lie_about_a_container_that_runs_changes_nothing(serving, loop, discovery):
    victim, _ = serving
    before = dict(discovery.nodes["shop"]), App.objects.get().route_wanted, Event.objects.count()
    assert not container_ended(victim.host_id, victim.short_id, loop.clients)
    assert (discovery.nodes["shop"], App.objects.get().route_wanted, Event.objects.count()) == before


@pytest.mark.parametrize("stray", ["abcdefabcdef", "", "../../info", "x" * 300, "0", "%", "urn:uuid:12"])
def test_an_unknown_container_asks_no_engine_and_changes_nothing(serving, world, loop, stray):
    victim, _ = serving
    asked = world.engine_of(victim.host).calls["inspect"]
    assert not container_ended(victim.host_id, stray, loop.clients)
    assert world.engine_of(victim.host).calls["inspect"] == asked


def test_another_hosts_word_about_an_instance_counts_for_nothing(serving, world, loop):
    victim, other = serving
    crash(world, victim)
    assert not container_ended(other.host_id, victim.short_id, loop.clients)


def test_an_engine_that_does_not_answer_proves_nothing(serving, world, loop):
    victim, _ = serving
    crash(world, victim)
    world.engine_of(victim.host).unreachable = True
    assert not container_ended(victim.host_id, victim.short_id, loop.clients)
    assert Instance.objects.get(pk=victim.pk).status == Status.HEALTHY


def test_with_zookeeper_away_the_end_is_noted_all_the_same(serving, world, loop, discovery):
    victim, _ = serving
    crash(world, victim, oom_killed=True)
    discovery.down = True
    assert container_ended(victim.host_id, victim.short_id, loop.clients)
    app = App.objects.get()
    assert Instance.objects.get(pk=victim.pk).code == "instance.out_of_memory"
    assert app.route_wanted > app.route_published, "and the sweep publishes it later"


def test_an_old_containers_end_is_nothing_to_one_that_was_started_anew_since(serving, world, loop):
    victim, _ = serving
    crash(world, victim)
    Instance.objects.filter(pk=victim.pk).update(container_id="d" * 64)
    assert not container_ended(victim.host_id, victim.short_id, loop.clients)
    assert Instance.objects.get(pk=victim.pk).status == Status.HEALTHY


def test_one_that_is_restarted_in_place_is_unrouted_at_once_as_well(app, world, loop, discovery):
    deploy(app, world, on_failure="restart")
    loop.settle()
    victim, other = Instance.objects.order_by("pk")
    crash(world, victim)
    assert container_ended(victim.host_id, victim.short_id, loop.clients)
    assert {container for _, container in discovery.nodes["shop"]} == {other.container_id}
    assert Instance.objects.get(pk=victim.pk).status == Status.PLACED


def test_the_end_of_one_that_is_being_stopped_is_nothing_new(serving, world, loop):
    victim, _ = serving
    crash(world, victim, 143)
    Instance.objects.filter(pk=victim.pk).update(status=Status.DRAINING)
    assert not container_ended(victim.host_id, victim.short_id, loop.clients)
    assert EventKind.DIE in {event.kind for _, event in world.engine_of(victim.host).said}
