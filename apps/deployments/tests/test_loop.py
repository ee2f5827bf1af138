"""The loop, with engines and ZooKeeper in memory."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.models import Instance, Rollout
from apps.deployments.selectors import unfinished_apps, unfinished_instances
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start, undeploy
from apps.hosts.engines.memory import NEVER_READY, Failure, exits, refuses
from apps.hosts.models import Allocation, Host, PortAllocation

Status = Instance.Status


@pytest.fixture
def hosts(world):
    return [world.host(), world.host()]


@pytest.fixture
def app(world, hosts):
    app = world.app()
    world.push(app)
    return app


def _deploy(app, world, instances=2, version="1.0", **values):
    return rollout_start(
        app=app, version=version, by=world.alice, instances=instances, settings_=ReleaseSettings(**values)
    )


def _nothing_held(app):
    quota = app.tenant.quota
    quota.refresh_from_db()
    assert (quota.memory_mb_used, quota.cpu_millis_used, quota.instances_used) == (0, 0, 0)
    assert not Allocation.objects.exists()
    assert not PortAllocation.objects.filter(status=PortAllocation.Status.CLAIMED).exists()
    assert not Host.objects.exclude(memory_mb_claimed=0, cpu_millis_claimed=0).exists()


def _rest():
    PortAllocation.objects.update(freed_at=now() - timedelta(minutes=1))


def test_a_deploy_runs_one_instance_per_host_and_routes_both(app, world, hosts, loop, discovery):
    rollout = _deploy(app, world)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    ready = list(Instance.objects.filter(app=app, status=Status.HEALTHY))
    assert {one.host_id for one in ready} == {host.pk for host in hosts}
    expected = {("1.0", one.container_id): f"{one.host.address}:{one.port}" for one in ready}
    assert discovery.nodes["shop"] == expected
    assert discovery.weights["shop"] == {"1.0": 100}


def test_an_undeploy_leaves_nothing(app, world, hosts, loop, discovery):
    _deploy(app, world)
    loop.settle()
    rollout = undeploy(app=app, by=world.alice)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert discovery.nodes["shop"] == {}
    assert not any(world.engine_of(host).containers for host in hosts)
    _nothing_held(app)
    _rest()
    loop.step()
    assert not PortAllocation.objects.exists(), "acknowledged and rested"


def test_an_instance_is_not_stopped_before_the_gateways_let_go(app, world, hosts, loop, discovery):
    _deploy(app, world)
    loop.settle()
    discovery.automatic = False
    undeploy(app=app, by=world.alice)
    loop.settle()
    assert discovery.nodes["shop"] == {}
    assert all(len(world.engine_of(host).containers) == 1 for host in hosts), "a gateway may still send requests"
    discovery.served["gw-1"] = discovery.zxid
    loop.settle()
    assert not any(world.engine_of(host).containers for host in hosts)


def test_a_port_stays_in_quarantine_until_every_live_gateway_has_served_the_change(app, world, loop, discovery):
    discovery.served["gw-2"] = 0
    _deploy(app, world)
    loop.settle()
    discovery.automatic = False
    undeploy(app=app, by=world.alice)
    loop.settle()
    discovery.served["gw-1"] = discovery.zxid
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    assert Instance.objects.filter(released=True).count() == 2, "the deadline ends the wait"
    _rest()
    loop.step()
    assert PortAllocation.objects.filter(status=PortAllocation.Status.QUARANTINED).count() == 2
    discovery.served["gw-2"] = discovery.zxid
    loop.settle()
    assert not PortAllocation.objects.exists()


def test_a_killed_container_is_unrouted_and_replaced(app, world, hosts, loop, discovery):
    _deploy(app, world)
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


def test_an_instance_that_stops_answering_is_replaced_after_enough_failed_checks(app, world, loop, settings):
    _deploy(app, world)
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
    _deploy(app, world)
    loop.settle()
    for host in hosts:
        world.engine_of(host).unreachable = True
    Host.objects.update(last_seen_at=now() - timedelta(minutes=1))
    loop.settle()
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == 2
    assert set(Host.objects.values_list("status", flat=True)) == {"down"}


def test_zookeeper_away_stops_no_container_and_heals(app, world, hosts, loop, discovery):
    _deploy(app, world)
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
    _deploy(app, world)
    loop.settle()
    assert [len(world.engine_of(host).containers) for host in hosts] == [1, 1]
    assert Instance.objects.filter(app=app, status=Status.HEALTHY).count() == 2


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [(exits(3), "instance.exited"), (refuses(), "container.refused"), (None, "image.not_found")],
)
def test_a_version_that_cannot_run_fails_the_rollout_with_its_cause_and_leaves_nothing(
    app, world, hosts, loop, behaviour, code
):
    for host in hosts:
        world.engine_of(host).default_behaviour = behaviour
    rollout = _deploy(app, world)
    loop.settle(10)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == (Rollout.Status.FAILED, code)
    assert rollout.reason
    assert Event.objects.filter(app_id=app.pk, code="rollout.failed").exists()
    assert not any(world.engine_of(host).containers for host in hosts)
    _nothing_held(app)


def test_an_app_that_never_becomes_ready_fails_at_its_deadline(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).default_behaviour = NEVER_READY
    rollout = _deploy(app, world, instances=1)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.PROGRESSING
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == (Rollout.Status.FAILED, "instance.never_ready")
    assert "/_ping" in rollout.reason
    assert not any(world.engine_of(host).containers for host in hosts)
    _nothing_held(app)


def test_a_failing_second_version_leaves_the_first_serving(app, world, hosts, loop, discovery):
    _deploy(app, world)
    loop.settle()
    before = dict(discovery.nodes["shop"])
    world.push(app, "2.0", "b" * 64)
    for host in hosts:
        world.engine_of(host).images[f"sha256:{'b' * 64}"] = exits(1)
    rollout = _deploy(app, world, version="2.0")
    loop.settle(10)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.FAILED
    assert discovery.nodes["shop"] == before
    assert discovery.weights["shop"] == {"1.0": 100}


def test_a_second_version_takes_over_once_all_of_it_is_ready(app, world, hosts, loop, discovery):
    _deploy(app, world)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    rollout = _deploy(app, world, version="2.0")
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert {key[0] for key in discovery.nodes["shop"]} == {"2.0"}
    assert sum(len(world.engine_of(host).containers) for host in hosts) == 2


def test_a_container_that_nothing_holds_is_removed_and_others_are_left_alone(app, world, hosts, loop):
    _deploy(app, world)
    loop.settle()
    engine = world.engine_of(hosts[0])
    (ours,) = engine.containers.values()
    from dataclasses import replace

    stray = replace(ours.observed, name="berth-stray", instance="f" * 12)
    foreign = replace(ours.observed, name="berth-foreign", instance="e" * 12)
    engine.containers["berth-stray"] = replace(ours, observed=stray, port=("127.0.0.1", 1))
    engine.containers["berth-foreign"] = replace(ours, observed=foreign, platform="other", port=("127.0.0.1", 2))
    loop.step()
    assert set(engine.containers) == {ours.observed.name, "berth-foreign"}


def test_the_sweep_finds_what_no_message_announced(app, world, loop):
    _deploy(app, world)
    Instance.objects.update(status_since=now() - timedelta(seconds=5))
    assert unfinished_apps(10) == [app.pk]
    assert len(unfinished_instances(10)) == 2
    loop.settle()
    assert unfinished_apps(10) == []
    assert unfinished_instances(10) == []


def test_a_crash_loop_is_retried_three_times_at_once_and_then_waits(app, world, hosts, loop):
    _deploy(app, world, instances=1)
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
    _deploy(app, world, instances=8)
    loop.settle()
    Instance.objects.update(created_at=now() - timedelta(hours=1))
    for host in hosts:
        world.engine_of(host).reboot()
    loop.settle()
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 8


def test_a_failing_release_does_not_hold_up_the_next_one(app, world, hosts, loop):
    _deploy(app, world, instances=1)
    loop.settle()
    app.replica_sets.update(retry_at=now() + timedelta(minutes=10))
    world.push(app, "2.0", "b" * 64)
    _deploy(app, world, instances=1, version="2.0")
    loop.settle(8)
    victim = Instance.objects.get(status=Status.HEALTHY)
    world.engine_of(victim.host).crash(next(iter(world.engine_of(victim.host).containers)))
    loop.settle()
    assert Instance.objects.get(status=Status.HEALTHY).pk != victim.pk


def test_a_new_release_of_the_same_version_gets_no_traffic_before_the_switch(app, world, hosts, loop, discovery):
    _deploy(app, world, instances=1)
    loop.settle()
    (before,) = discovery.nodes["shop"]
    rollout = _deploy(app, world, instances=2, env={"A": "1"})
    newest, *_ = Instance.objects.filter(replica_set=rollout.target)
    from apps.deployments.services.instances import instance_ready

    Instance.objects.filter(pk=newest.pk).update(status=Status.RUNNING, container_id="c" * 64)
    newest.refresh_from_db()
    instance_ready(instance=newest)
    from apps.deployments.reconcile.routes import publish

    publish(app.pk, app.slug, loop.clients)
    assert set(discovery.nodes["shop"]) == {before}
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert before not in discovery.nodes["shop"]
    assert len(discovery.nodes["shop"]) == 2


def test_a_rollout_succeeds_only_once_its_route_is_published(app, world, loop, discovery):
    discovery.down = True
    rollout = _deploy(app, world)
    loop.settle()
    rollout.refresh_from_db()
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 2
    assert rollout.status == Rollout.Status.PROGRESSING
    discovery.down = False
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED


def test_an_engines_fault_tells_tenants_neither_hosts_nor_addresses(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).foreign_ports = {(host.address, port) for port in range(20000, 20100)}
    _deploy(app, world, instances=1)
    loop.settle(2)
    failed = Instance.objects.filter(status=Status.FAILED).first()
    assert failed.code == "host.port_taken"
    told = " ".join(Event.objects.filter(app_id=app.pk).values_list("message", flat=True)) + failed.reason
    assert "127.0.1" not in told
    assert "host-" not in told


def test_a_cut_off_gateway_keeps_ports_in_quarantine_over_a_change_of_epoch(app, world, loop, discovery):
    discovery.served["gw-2"] = 0
    _deploy(app, world)
    loop.settle()
    undeploy(app=app, by=world.alice)
    discovery.automatic = False
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    _rest()
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
    rollout = _deploy(app, world, instances=4)
    loop.settle(12)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert Instance.objects.filter(status=Status.HEALTHY, host=hosts[1]).count() == 4
    assert Instance.objects.filter(host=hosts[0]).count() <= 4


def test_hosts_that_all_refuse_are_tried_ever_more_rarely(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).foreign_ports = {(host.address, port) for port in range(20000, 30000)}
    rollout = _deploy(app, world, instances=1)
    loop.settle(20)
    rollout.refresh_from_db()
    assert Instance.objects.count() <= 5
    assert rollout.status == Rollout.Status.PROGRESSING, "the platform's fault, not the app's"


def test_instances_on_a_host_not_heard_of_since_their_checks_fail_are_left_alone(app, world, hosts, loop):
    _deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(status=Status.HEALTHY).first()
    engine = world.engine_of(victim.host)
    (container,) = engine.containers.values()
    container.behaviour = NEVER_READY
    from apps.deployments.reconcile import observe_host, probe_pass

    for _ in range(6):
        probe_pass(loop.clients)
    victim.refresh_from_db()
    assert (victim.status, victim.failures) == (Status.HEALTHY, 6)
    observe_host(victim.host_id, loop.clients)
    probe_pass(loop.clients)
    victim.refresh_from_db()
    assert victim.status == Status.UNHEALTHY


def test_a_full_quota_does_not_delay_the_replacement_beyond_the_release(app, world, hosts, loop):
    world.acme.quota.instances = 2
    world.acme.quota.save()
    _deploy(app, world)
    loop.settle()
    victim = Instance.objects.filter(status=Status.HEALTHY).first()
    engine = world.engine_of(victim.host)
    engine.crash(next(iter(engine.containers)))
    loop.settle(4)
    assert Instance.objects.filter(status=Status.HEALTHY).count() == 2


def test_a_second_row_of_the_same_engine_removes_nobodys_container(app, world, hosts, loop):
    _deploy(app, world, instances=1)
    loop.settle()
    (instance,) = Instance.objects.filter(status=Status.HEALTHY)
    other = next(host for host in hosts if host.pk != instance.host_id)
    stolen = dict(world.engine_of(instance.host).containers)
    world.engine_of(other).containers.update(stolen)
    from apps.deployments.reconcile import observe_host

    observe_host(other.pk, loop.clients)
    assert set(world.engine_of(other).containers) == set(stolen)


def test_a_lost_database_does_not_cost_everybody_their_containers(app, world, hosts, loop):
    _deploy(app, world, instances=16)
    loop.settle()
    Instance.objects.all().delete()
    loop.step()
    assert sum(len(world.engine_of(host).containers) for host in hosts) == 16


def test_a_start_that_can_never_be_tried_ends_at_its_deadline(app, world, loop, settings):
    settings.REGISTRY_TOKEN_KEY = ""
    _deploy(app, world, instances=1)
    loop.settle(2)
    (instance,) = Instance.objects.all()
    assert instance.status == Status.STARTING
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    from apps.deployments.reconcile import reconcile_instance

    reconcile_instance(instance.pk, loop.clients)
    instance.refresh_from_db()
    assert (instance.status, instance.code) == (Status.FAILED, "engine.start_overdue")


def test_waiting_instances_send_no_messages_of_their_own(app, world, hosts, loop, discovery, nudges):
    _deploy(app, world)
    loop.settle()
    discovery.down = True
    undeploy(app=app, by=world.alice)
    nudges.clear()
    loop.settle(10)
    assert [name for name, _ in nudges] == []
