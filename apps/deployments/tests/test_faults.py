"""The loop, with engines and ZooKeeper in memory: what breaks, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.deployments.models import Instance, Rollout
from apps.deployments.reconcile import observe_host, probe_pass, reconcile_instance
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.selectors import unfinished_apps, unfinished_instances
from apps.deployments.services.rollouts import undeploy
from apps.deployments.tests.steps import deploy, rest
from apps.hosts.engines.memory import NEVER_READY, Failure
from apps.hosts.models import Host, PortAllocation

Status = Instance.Status


def test_a_killed_container_is_unrouted_and_replaced(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(app=app, status=Status.HEALTHY).first()
    engine = world.engine_of(victim.host)
    engine.crash(next(iter(engine.containers)), 137)
    loop.settle()
    victim.refresh_from_db()
    assert (victim.status, victim.code, victim.exit_code) == (Status.FAILED, "instance.exited", 137)
    ready = list(Instance.objects.filter(app=app, status=Status.HEALTHY))
    assert len(ready) == 2
    assert {key[1] for key in discovery.nodes["shop"]} == {one.container_id for one in ready}


def _clocks_agree(monkeypatch):
    """Here one process looks and probes, so that a host heard of at all was heard of later."""
    monkeypatch.setattr("apps.deployments.reconcile.probes.CLOCKS_APART_S", 0)


def test_an_instance_that_stops_answering_is_replaced_after_enough_failed_checks(app, world, loop, monkeypatch):
    _clocks_agree(monkeypatch)
    deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(app=app, status=Status.HEALTHY).first()
    (container,) = world.engine_of(victim.host).containers.values()
    container.behaviour = NEVER_READY
    loop.step()
    victim.refresh_from_db()
    assert (victim.status, victim.failures) == (Status.HEALTHY, 1)
    loop.settle()
    victim.refresh_from_db()
    assert (victim.status, victim.code) == (Status.FAILED, "instance.unhealthy")
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == 2


def test_silence_of_a_host_that_cannot_be_seen_changes_nothing(app, world, hosts, loop):
    deploy(app, world)
    loop.settle()
    for host in hosts:
        world.engine_of(host).unreachable = True
    Host.objects.update(last_seen_at=now() - timedelta(minutes=1))
    loop.settle()
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == 2
    assert set(Host.objects.values_list("status", flat=True)) == {"down"}


@pytest.mark.parametrize(("heard", "left"), [(False, 2), (True, 1)])
def test_a_host_that_takes_connections_is_there_whenever_its_engine_was_last_looked_at(
    app, world, hosts, loop, monkeypatch, heard, left
):
    deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(app=app).order_by("pk").first()
    monkeypatch.setattr(
        loop.clients,
        "probe",
        lambda targets: {one.pk: Wrong("no answer", heard=heard) if one.pk == victim.pk else None for one in targets},
    )
    Host.objects.update(last_seen_at=now() - timedelta(seconds=3))
    for _ in range(3):
        probe_pass(loop.clients)
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == left


def test_zookeeper_away_stops_no_container_and_heals(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    discovery.down = True
    undeploy(app=app, by=world.alice)
    loop.settle()
    assert all(world.engine_of(host).containers for host in hosts), "not unpublished, so not stopped"
    discovery.down = False
    loop.settle()
    assert not any(world.engine_of(host).containers for host in hosts)


@pytest.mark.parametrize("when", [Failure.BEFORE, Failure.AFTER])
def test_a_lost_answer_of_the_engine_makes_no_second_container(app, world, hosts, loop, when):
    world.engine_of(hosts[0]).fail_next("ensure", when)
    deploy(app, world)
    loop.settle()
    assert [len(world.engine_of(host).containers) for host in hosts] == [1, 1]
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == 2


def test_a_container_that_nothing_holds_is_removed_and_others_are_left_alone(app, world, hosts, loop):
    deploy(app, world)
    loop.settle()
    engine = world.engine_of(hosts[0])
    (ours,) = engine.containers.values()
    stray = replace(ours.observed, name="berth-stray", instance="f" * 12)
    foreign = replace(ours.observed, name="berth-foreign", instance="e" * 12)
    engine.containers["berth-stray"] = replace(ours, observed=stray, port=("127.0.0.1", 1))
    engine.containers["berth-foreign"] = replace(ours, observed=foreign, platform="other", port=("127.0.0.1", 2))
    loop.step()
    assert set(engine.containers) == {ours.observed.name, "berth-foreign"}


def test_the_sweep_finds_what_no_message_announced(app, world, loop):
    deploy(app, world)
    Instance.objects.update(status_since=now() - timedelta(seconds=5))
    assert unfinished_apps(10) == [app.pk]
    assert len(unfinished_instances(10)) == 2
    loop.settle()
    assert unfinished_apps(10) == []
    assert unfinished_instances(10) == []


def test_a_crash_loop_is_retried_three_times_at_once_and_then_waits(app, world, hosts, loop):
    deploy(app, world, instances=1)
    loop.settle()
    for _ in range(4):
        for host in hosts:
            engine = world.engine_of(host)
            for name in list(engine.containers):
                engine.crash(name)
        loop.settle()
    assert Instance.objects.filter(status=Status.FAILED).count() == 4
    assert not Instance.objects.filter(released=False).exists(), "the fourth restart waits"
    (replica_set,) = app.replica_sets.all()
    assert now() + timedelta(seconds=20) < replica_set.retry_at < now() + timedelta(seconds=31)
    app.replica_sets.update(retry_at=now())
    Instance.objects.update(status_since=now() - timedelta(minutes=2), created_at=now() - timedelta(minutes=3))
    loop.settle()
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 1


def test_instances_that_ran_well_for_long_are_all_replaced_at_once(app, world, hosts, loop):
    deploy(app, world, instances=8)
    loop.settle()
    Instance.objects.update(created_at=now() - timedelta(hours=1))
    for host in hosts:
        world.engine_of(host).reboot()
    loop.settle()
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 8


def test_a_failing_release_does_not_hold_up_the_next_one(app, world, hosts, loop):
    deploy(app, world, instances=1)
    loop.settle()
    app.replica_sets.update(retry_at=now() + timedelta(minutes=10))
    world.push(app, "2.0", "b" * 64)
    deploy(app, world, instances=1, version="2.0")
    loop.settle(8)
    victim = Instance.objects.get(status=Status.HEALTHY)
    world.engine_of(victim.host).crash(next(iter(world.engine_of(victim.host).containers)))
    loop.settle()
    assert Instance.objects.get(status=Status.HEALTHY).pk != victim.pk


def test_a_cut_off_gateway_keeps_ports_in_quarantine_over_a_change_of_epoch(app, world, loop, discovery):
    discovery.served["gw-2"] = 0
    deploy(app, world)
    loop.settle()
    undeploy(app=app, by=world.alice)
    discovery.automatic = False
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    rest()
    discovery.served = {"gw-1": 5}
    discovery.epoch_name = "epoch-2"
    loop.step()
    assert PortAllocation.objects.count() == 2, "gw-2 may still route to them"
    discovery.served["gw-2"] = 5
    loop.step()
    assert not PortAllocation.objects.exists()


def test_a_host_that_refuses_is_avoided_and_does_not_spin(app, world, hosts, loop):
    bad = world.engine_of(hosts[0])
    bad.foreign_ports = {(hosts[0].address, port) for port in range(20000, 30000)}
    rollout = deploy(app, world, instances=4)
    loop.settle(12)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert Instance.objects.filter(status=Status.HEALTHY, host=hosts[1]).count() == 4
    assert Instance.objects.filter(host=hosts[0]).count() <= 4


def test_hosts_that_all_refuse_are_tried_ever_more_rarely(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).foreign_ports = {(host.address, port) for port in range(20000, 30000)}
    rollout = deploy(app, world, instances=1)
    loop.settle(20)
    rollout.refresh_from_db()
    assert Instance.objects.count() <= 5
    assert rollout.status == Rollout.Status.PROGRESSING, "the platform's fault, not the app's"


def test_instances_on_a_host_not_heard_of_since_their_checks_fail_are_left_alone(app, world, hosts, loop, monkeypatch):
    deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(status=Status.HEALTHY).first()
    engine = world.engine_of(victim.host)
    (container,) = engine.containers.values()
    container.behaviour = NEVER_READY
    for _ in range(6):
        probe_pass(loop.clients)
    victim.refresh_from_db()
    assert (victim.status, victim.failures) == (Status.HEALTHY, 6)
    observe_host(victim.host_id, loop.clients)
    probe_pass(loop.clients)
    victim.refresh_from_db()
    assert victim.status == Status.HEALTHY, "the clock of whoever looked may be ahead of ours"
    _clocks_agree(monkeypatch)
    probe_pass(loop.clients)
    victim.refresh_from_db()
    assert victim.status == Status.UNHEALTHY


def test_a_full_quota_does_not_delay_the_replacement_beyond_the_release(app, world, hosts, loop):
    world.acme.quota.instances = 2
    world.acme.quota.save()
    deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(status=Status.HEALTHY).first()
    engine = world.engine_of(victim.host)
    engine.crash(next(iter(engine.containers)))
    loop.settle(4)
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 2


def test_a_second_row_of_the_same_engine_removes_nobodys_container(app, world, hosts, loop):
    deploy(app, world, instances=1)
    loop.settle()
    (instance,) = Instance.objects.filter(status=Status.HEALTHY)
    other = next(host for host in hosts if host.pk != instance.host_id)
    stolen = dict(world.engine_of(instance.host).containers)
    world.engine_of(other).containers.update(stolen)
    observe_host(other.pk, loop.clients)
    assert set(world.engine_of(other).containers) == set(stolen)


def test_a_lost_database_does_not_cost_everybody_their_containers(app, world, hosts, loop):
    deploy(app, world, instances=16)
    loop.settle()
    Instance.objects.all().delete()
    loop.step()
    assert sum(len(world.engine_of(host).containers) for host in hosts) == 16


def test_a_start_that_can_never_be_tried_ends_at_its_deadline(app, world, loop, settings):
    settings.REGISTRY_TOKEN_KEY = ""
    deploy(app, world, instances=1)
    loop.settle(2)
    (instance,) = Instance.objects.all()
    assert instance.status == Status.STARTING
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    reconcile_instance(instance.pk, loop.clients)
    instance.refresh_from_db()
    assert (instance.status, instance.code) == (Status.FAILED, "engine.start_overdue")


def test_waiting_instances_send_no_messages_of_their_own(app, world, hosts, loop, discovery, nudges):
    deploy(app, world)
    loop.settle()
    discovery.down = True
    undeploy(app=app, by=world.alice)
    nudges.clear()
    loop.settle(10)
    assert [name for name, _ in nudges] == []
