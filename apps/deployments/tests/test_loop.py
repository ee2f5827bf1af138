"""The loop, with engines and ZooKeeper in memory: deploys, rollouts, undeploys."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.models import Instance, Rollout
from apps.deployments.reconcile.routes import publish
from apps.deployments.services.instances import instance_ready
from apps.deployments.services.rollouts import undeploy
from apps.deployments.services.strategies import Options
from apps.deployments.tests.steps import deploy, nothing_held, rest
from apps.hosts.engines.memory import NEVER_READY, exits, refuses
from apps.hosts.models import PortAllocation

Status = Instance.Status


def test_a_deploy_runs_one_instance_per_host_and_routes_both(app, world, hosts, loop, discovery):
    rollout = deploy(app, world)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    ready = list(Instance.objects.filter(app=app, status=Status.HEALTHY))
    assert {one.host_id for one in ready} == {host.pk for host in hosts}
    expected = {("1.0", one.container_id): f"{one.host.address}:{one.port}" for one in ready}
    assert discovery.nodes["shop"] == expected
    assert discovery.weights["shop"] == {"1.0": 100}


def test_an_undeploy_leaves_nothing(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    rollout = undeploy(app=app, by=world.alice)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert discovery.nodes["shop"] == {}
    assert not any(world.engine_of(host).containers for host in hosts)
    nothing_held(app)
    rest()
    loop.step()
    assert not PortAllocation.objects.exists(), "acknowledged and rested"


def test_an_instance_is_not_stopped_before_the_gateways_let_go(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    discovery.automatic = False
    undeploy(app=app, by=world.alice)
    loop.settle()
    assert discovery.nodes["shop"] == {}
    assert all(len(world.engine_of(host).containers) == 1 for host in hosts), "a gateway may still send requests"
    discovery.served["gw-1"] = discovery.zxid
    loop.settle()
    assert not any(world.engine_of(host).containers for host in hosts)


def test_an_instance_is_not_stopped_before_it_has_answered_what_it_was_asked_unless_that_takes_too_long(
    app, world, hosts, loop, discovery
):
    deploy(app, world)
    loop.settle()
    busy, _ = Instance.objects.filter(app=app).order_by("pk")
    loop.traffic.count(app.slug, busy.container_id)
    loop.traffic.busy = {busy.container_id: 2}
    undeploy(app=app, by=world.alice)
    loop.settle()
    left = [one for host in hosts for one in world.engine_of(host).containers.values()]
    assert [one.observed.container_id for one in left] == [busy.container_id]
    assert discovery.nodes["shop"] == {}
    Instance.objects.filter(pk=busy.pk).update(unrouted_at=now() - timedelta(minutes=1))
    loop.settle()
    assert not any(world.engine_of(host).containers for host in hosts), "a websocket may stay for ever"


def test_a_port_stays_in_quarantine_until_every_live_gateway_has_served_the_change(app, world, loop, discovery):
    discovery.served["gw-2"] = 0
    deploy(app, world)
    loop.settle()
    discovery.automatic = False
    undeploy(app=app, by=world.alice)
    loop.settle()
    discovery.served["gw-1"] = discovery.zxid
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    assert Instance.objects.filter(released=True).count() == 2, "the deadline ends the wait"
    rest()
    loop.step()
    assert PortAllocation.objects.filter(status=PortAllocation.Status.QUARANTINED).count() == 2
    discovery.served["gw-2"] = discovery.zxid
    loop.settle()
    assert not PortAllocation.objects.exists()


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [(exits(3), "instance.exited"), (refuses(), "container.refused"), (None, "image.not_found")],
)
def test_a_version_that_cannot_run_fails_the_rollout_with_its_cause_and_leaves_nothing(
    app, world, hosts, loop, behaviour, code
):
    for host in hosts:
        world.engine_of(host).default_behaviour = behaviour
    rollout = deploy(app, world)
    loop.settle(10)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == (Rollout.Status.FAILED, code)
    assert rollout.reason
    assert Event.objects.filter(app_id=app.pk, code="rollout.failed").exists()
    assert not any(world.engine_of(host).containers for host in hosts)
    nothing_held(app)


def test_an_app_that_never_becomes_ready_fails_at_its_deadline(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).default_behaviour = NEVER_READY
    rollout = deploy(app, world, instances=1)
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.PROGRESSING
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == (Rollout.Status.FAILED, "instance.never_ready")
    assert "/_ping" in rollout.reason
    assert not any(world.engine_of(host).containers for host in hosts)
    nothing_held(app)


def test_a_failing_second_version_leaves_the_first_serving(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    before = dict(discovery.nodes["shop"])
    world.push(app, "2.0", "b" * 64)
    for host in hosts:
        world.engine_of(host).images[f"sha256:{'b' * 64}"] = exits(1)
    rollout = deploy(app, world, version="2.0")
    loop.settle(10)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.ROLLED_BACK
    assert discovery.nodes["shop"] == before
    assert discovery.weights["shop"] == {"1.0": 100}


def test_a_second_version_takes_over_once_all_of_it_is_ready(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    rollout = deploy(app, world, version="2.0")
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert {key[0] for key in discovery.nodes["shop"]} == {"2.0"}
    assert sum(len(world.engine_of(host).containers) for host in hosts) == 2


def test_a_new_release_of_the_same_version_gets_no_traffic_before_the_switch(app, world, hosts, loop, discovery):
    deploy(app, world, instances=1)
    loop.settle()
    (before,) = discovery.nodes["shop"]
    rollout = deploy(
        app, world, instances=2, env={"A": "1"}, options=Options(strategy="blue_green", keep_s=0, judge_s=0)
    )
    newest, *_ = Instance.objects.filter(replica_set=rollout.target)
    Instance.objects.filter(pk=newest.pk).update(status=Status.RUNNING, container_id="c" * 64)
    newest.refresh_from_db()
    instance_ready(instance=newest)
    publish(app.pk, app.slug, loop.clients)
    assert set(discovery.nodes["shop"]) == {before}
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED
    assert before not in discovery.nodes["shop"]
    assert len(discovery.nodes["shop"]) == 2


def test_a_rollout_succeeds_only_once_its_route_is_published(app, world, loop, discovery):
    discovery.down = True
    rollout = deploy(app, world)
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
        world.engine_of(host).foreign_ports = {(host.address, port) for port in range(20000, 30000)}
    deploy(app, world, instances=1)
    loop.settle(2)
    failed = Instance.objects.filter(status=Status.FAILED).first()
    assert failed.code == "host.port_taken"
    told = " ".join(Event.objects.filter(app_id=app.pk).values_list("message", flat=True)) + failed.reason
    assert "127.0.1" not in told
    assert "host-" not in told
