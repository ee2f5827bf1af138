"""Rollouts, drains and restarts when things come in the wrong order, twice, late or never."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.core.clock import now
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.reconcile import reconcile_app, reconcile_instance
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.probes import Notebook, asked_now
from apps.deployments.selectors import publication_of
from apps.deployments.services import failing, instances
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_cancel, rollout_start
from apps.deployments.services.strategies import Options
from apps.deployments.tests.steps import deploy, rest
from apps.hosts.engines.base import EngineError
from apps.hosts.engines.memory import NEVER_READY, RUNS, MemoryEngine, exits
from apps.hosts.models import Host, PortAllocation

Status = Instance.Status
OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@pytest.fixture
def hosts(world):
    return [world.host() for _ in range(3)]


@pytest.fixture
def serving(app, world, hosts, loop):
    """Version 1.0 serves with four instances, and 2.0 is there."""
    deploy(app, world, instances=4)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    return app


def start(app, world, strategy, instances=None, asked=None, judge_s=0, **options):
    return rollout_start(
        app=app,
        version="2.0",
        by=world.alice,
        instances=instances,
        settings_=asked or ReleaseSettings(),
        options=Options(strategy=strategy, judge_s=judge_s, **options),
    )


def does(world, hosts, image, behaviour):
    """What containers of the image do that are started from now on."""
    for host in hosts:
        world.engine_of(host).images[image] = behaviour


def crash(world, hosts, image_of=None):
    """All containers, or those of one replica set."""
    names = None if image_of is None else {one.short_id for one in Instance.objects.filter(replica_set_id=image_of)}
    for host in hosts:
        engine = world.engine_of(host)
        for name, one in list(engine.containers.items()):
            if names is None or one.observed.instance in names:
                engine.crash(name)


def past(**values):
    return {name: now() - timedelta(seconds=seconds) for name, seconds in values.items()}


def counted(app, discovery):
    tags = [tag for tag, _ in discovery.nodes[app.slug]]
    return {tag: tags.count(tag) for tag in set(tags)}


def settle_until(loop, rollout, status, rounds=30):
    for _ in range(rounds):
        loop.step()
        rollout.refresh_from_db()
        if rollout.status == status:
            return
    raise AssertionError(f"{rollout.status} {rollout.phase} {rollout.code} {rollout.reason}")


# Ports ------------------------------------------------------------------------------------------------------------


def _rests_until_served(instance, loop, discovery):
    """The port of an instance that is over is not given out before the gateway that did not answer does."""
    rest()
    loop.step()
    rows = PortAllocation.objects.filter(host_id=instance.host_id, port=instance.port)
    assert rows.filter(status="quarantined").exists(), "the gateway may still route to it"
    discovery.automatic, discovery.served["gw-1"] = True, discovery.zxid
    rest()
    loop.settle(2)
    assert not rows.filter(status="quarantined").exists()


def test_a_port_handed_over_while_a_gateway_still_routes_to_it_rests_when_its_heir_never_got_ready(
    app, world, hosts, loop, discovery
):
    deploy(app, world, instances=1)
    loop.settle()
    (old,) = Instance.objects.all()
    world.push(app, "2.0", "b" * 64)
    does(world, hosts, NEW, exits(1))
    discovery.automatic = False
    start(app, world, "in_place")
    loop.settle(2)
    Instance.objects.filter(status=Status.DRAINING).update(**past(deadline_at=1))
    loop.settle(3)
    heir = Instance.objects.get(host_id=old.host_id, port=old.port, replica_set__release__number=2)
    assert (heir.status, heir.released) == (Status.FAILED, True)
    _rests_until_served(heir, loop, discovery)


def test_a_port_of_one_restarted_while_a_gateway_still_routes_to_it_rests_when_it_never_got_ready_again(
    app, world, hosts, loop, discovery
):
    deploy(app, world, instances=1, on_failure="restart")
    loop.settle()
    discovery.automatic = False
    does(world, hosts, OLD, NEVER_READY)
    crash(world, hosts)
    loop.settle(2)
    Instance.objects.update(**past(deadline_at=1))
    loop.settle(2)
    (again,) = Instance.objects.all()
    assert again.status == Status.RUNNING
    assert instances.instance_drain(instance=again)
    ReplicaSet.objects.update(wanted=0)
    loop.settle(2)
    again.refresh_from_db()
    assert again.released
    _rests_until_served(again, loop, discovery)


def test_one_that_was_handed_a_port_is_unpublished_like_any_other_when_it_goes(serving, world, loop, discovery):
    rollout = start(serving, world, "in_place")
    settle_until(loop, rollout, "succeeded", 60)
    discovery.automatic = False
    going = Instance.objects.filter(replica_set_id=rollout.target_id, status=Status.HEALTHY).first()
    assert instances.instance_drain(instance=going)
    loop.settle(3)
    going.refresh_from_db()
    assert going.container_id not in {container for _, container in discovery.nodes["shop"]}
    assert not going.released, "the gateway has not said that it let go"


# Locks ------------------------------------------------------------------------------------------------------------


def _overdue_host(instance):
    Instance.objects.filter(pk=instance.pk).update(failures=99)
    return instances.instance_lost(instance=instance)


@pytest.mark.parametrize(
    "move",
    [
        lambda one: instances.instance_fail(instance=one, code="x", reason="x"),
        lambda one: instances.instance_unhealthy(instance=one, reason="x"),
        lambda one: instances.instance_drain(instance=one),
        lambda one: failing.instance_unready(instance=one, reason="x"),
        lambda one: failing.instance_restart(instance=one, code="x", reason="x"),
        lambda one: (
            Instance.objects.filter(pk=one.pk).update(status=Status.RUNNING) and instances.instance_ready(instance=one)
        ),
        _overdue_host,
    ],
)
def test_an_instances_move_takes_the_apps_row_before_its_own_as_rollouts_do(serving, move):
    one = Instance.objects.filter(status=Status.HEALTHY).select_related("app", "replica_set__release").first()
    with CaptureQueriesContext(
        connection,
    ) as seen:
        assert move(one)
    said = [query["sql"] for query in seen.captured_queries]
    own = next(
        at for at, sql in enumerate(said) if sql.startswith('UPDATE "deployments_instance"') and "status_" in sql
    )
    apps = [at for at, sql in enumerate(said) if '"deployments_app"' in sql and "JOIN" not in sql]
    assert min(apps) < own


# Answers that come late -------------------------------------------------------------------------------------------


def test_an_answer_that_comes_after_the_instance_got_ready_does_not_end_it(serving):
    one = Instance.objects.filter(status=Status.HEALTHY).first()
    Instance.objects.filter(pk=one.pk).update(status=Status.RUNNING, **past(deadline_at=1))
    asked = asked_now({}, {})[one.pk]
    one.refresh_from_db()
    assert instances.instance_ready(instance=one)
    notebook = Notebook()
    notebook.note(asked, asked.release.readiness, False, Wrong("no answer in time"))
    notebook.flush()
    one.refresh_from_db()
    assert one.status == Status.HEALTHY


def test_liveness_answers_of_a_container_do_not_end_the_next_one(app, world, hosts, loop, monkeypatch):
    monkeypatch.setattr("apps.deployments.reconcile.probes.CLOCKS_APART_S", -60)
    deploy(app, world, instances=1, on_failure="restart", liveness={"kind": "tcp", "failures": 1})
    loop.settle()
    (one,) = Instance.objects.all()
    asked = asked_now({}, {})[one.pk]
    crash(world, hosts)
    loop.settle(3)
    one.refresh_from_db()
    assert (one.status, one.restarts) == (Status.HEALTHY, 1)
    asked.live_failures = 1  # as counted of the one before
    notebook = Notebook()
    notebook.note(asked, asked.release.liveness, True, Wrong("no answer in time"))
    notebook.flush()
    one.refresh_from_db()
    assert (one.status, one.restarts) == (Status.HEALTHY, 1)


# The old version goes only where the new one serves ---------------------------------------------------------------


def _kept(app, world, hosts, loop):
    rollout = start(app, world, "blue_green", keep_s=600)
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.phase == "keeping"
    does(world, hosts, NEW, NEVER_READY)
    crash(world, hosts, rollout.target_id)
    return rollout


def test_the_old_version_is_kept_for_longer_while_the_new_one_is_not_ready(serving, world, hosts, loop, discovery):
    rollout = _kept(serving, world, hosts, loop)
    Instance.objects.update(created_at=now() - timedelta(hours=1))  # so that nobody says it crashes at its start
    loop.step()
    Rollout.objects.filter(pk=rollout.pk).update(**past(phase_since=3600))
    loop.settle(3)
    assert counted(serving, discovery) == {"1.0": 4}
    Rollout.objects.filter(pk=rollout.pk).update(**past(deadline_at=1))
    settle_until(loop, rollout, "rolled_back")
    assert discovery.weights["shop"] == {"1.0": 100}


def test_what_is_ready_gets_the_traffic_while_nothing_that_should_have_it_is(serving, world, hosts, loop):
    _kept(serving, world, hosts, loop)
    Instance.objects.update(created_at=now() - timedelta(hours=1))
    loop.step()
    published = publication_of(serving.pk)
    assert len(published.instances) == 4
    assert published.weights["1.0"] > 0, "all of them ready, and all of the traffic refused"


# Over an old version that is broken -------------------------------------------------------------------------------


def _broken(world, hosts, loop):
    does(world, hosts, OLD, exits(1))
    for _ in range(5):
        crash(world, hosts)
        loop.settle(2)
    assert not Instance.objects.filter(status=Status.HEALTHY).exists()


@pytest.mark.parametrize(
    ("strategy", "count", "options"),
    [
        ("in_place", 4, {}),
        ("rolling", 4, {"max_surge": 0, "max_unavailable": 1}),
        ("rolling", 1, {}),
    ],
)
def test_a_broken_version_does_not_stand_in_the_way_of_the_one_that_mends_it(
    serving, world, hosts, loop, strategy, count, options
):
    _broken(world, hosts, loop)
    rollout = start(serving, world, strategy, instances=count, **options)
    settle_until(loop, rollout, "succeeded", 40)
    assert Instance.objects.filter(replica_set_id=rollout.target_id, status=Status.HEALTHY).count() == count


def test_in_place_takes_those_that_do_not_serve_first(serving, world, hosts, loop, discovery):
    sick = Instance.objects.filter(status=Status.HEALTHY).order_by("pk").last()
    assert failing.instance_unready(instance=sick, reason="x")
    engine = world.engine_of(sick.host)
    next(one for one in engine.containers.values() if one.observed.instance == sick.short_id).behaviour = NEVER_READY
    start(serving, world, "in_place")
    reconcile_app(serving.pk, loop.clients)
    assert counted(serving, discovery) == {"1.0": 3}
    sick.refresh_from_db()
    assert sick.status == Status.DRAINING


def test_in_place_wants_no_fewer_than_none_while_one_moves_to_another_host(app, world, hosts, loop):
    deploy(app, world, instances=1)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    does(world, hosts, OLD, NEVER_READY)
    (one,) = Instance.objects.all()
    Host.objects.filter(pk=one.host_id).update(availability="draining")
    loop.settle(2)
    assert Instance.objects.filter(status__in=Instance.LIVE).count() == 2
    rollout = start(app, world, "in_place", instances=2, max_unavailable=2)
    settle_until(loop, rollout, "succeeded")


# What never ends --------------------------------------------------------------------------------------------------


def _cancelled_late(app, world, hosts, loop):
    """All of the traffic had moved; nothing of the old version is ready when it is cancelled."""
    rollout = start(app, world, "rolling", max_surge=1)
    for _ in range(40):
        loop.step()
        rollout.refresh_from_db()
        ready = Instance.objects.filter(replica_set_id=rollout.target_id, status=Status.HEALTHY).count()
        if ready == 3:
            break
    does(world, hosts, OLD, NEVER_READY)
    crash(world, hosts, rollout.source_id)
    rollout_cancel(app=app, number=rollout.number, by=world.alice)
    loop.step()
    return rollout


def test_a_given_up_version_serves_until_the_one_on_its_way_back_does(serving, world, hosts, loop, discovery):
    rollout = _cancelled_late(serving, world, hosts, loop)
    loop.settle(2)
    assert not Instance.objects.filter(replica_set_id=rollout.source_id, status=Status.HEALTHY).exists()
    there = counted(serving, discovery)
    assert there.get("2.0")
    ReplicaSet.objects.exclude(retiring_until=None).update(**past(retiring_until=1))
    loop.settle(3)
    assert counted(serving, discovery) == there, "the only ones that serve"
    ReplicaSet.objects.exclude(retiring_until=None).update(**past(retiring_until=3600))
    loop.settle(3)
    assert counted(serving, discovery) == {}, "but not for ever"


def test_a_given_up_set_of_which_nothing_is_left_holds_up_no_rollout(serving, world, hosts, loop):
    rollout = _cancelled_late(serving, world, hosts, loop)
    # As REMOVE leaves it: it had lost its share while it was not ready, and then it went.
    ReplicaSet.objects.filter(pk=rollout.target_id).update(wanted=0, weight=0)
    does(world, hosts, OLD, RUNS)
    loop.step()
    assert not ReplicaSet.objects.exclude(retiring_until=None).exists()


def test_a_new_version_that_flaps_gets_no_more_time_by_it(serving, world, loop, discovery):
    rollout = start(serving, world, "rolling", max_surge=1)
    discovery.automatic = False
    loop.settle(4)
    rollout.refresh_from_db()
    deadline = rollout.deadline_at
    shares = set()
    for _ in range(3):
        one = Instance.objects.get(replica_set_id=rollout.target_id, released=False)
        if one.status == Status.HEALTHY:
            failing.instance_unready(instance=one, reason="x")
        reconcile_app(serving.pk, loop.clients)
        shares.add(ReplicaSet.objects.get(pk=rollout.target_id).weight)
        loop.settle(2)
        shares.add(ReplicaSet.objects.get(pk=rollout.target_id).weight)
    assert shares == {0, 20}
    rollout.refresh_from_db()
    assert rollout.deadline_at - deadline < timedelta(milliseconds=1)


def test_one_that_is_drained_while_it_is_restarted_does_not_wait_for_a_gateway_for_ever(
    app, world, hosts, loop, discovery
):
    deploy(app, world, instances=1, on_failure="restart")
    loop.settle()
    discovery.automatic = False
    crash(world, hosts)
    loop.settle(2)
    (one,) = Instance.objects.all()
    assert (one.status, bool(one.container_id), one.unrouted_zxid > 0) == (Status.PLACED, True, True)
    ReplicaSet.objects.update(wanted=0)
    App.objects.update(route_wanted=1000)
    loop.settle(2)
    one.refresh_from_db()
    assert one.status == Status.DRAINING
    assert one.deadline_at is not None
    Instance.objects.update(**past(deadline_at=1))
    loop.settle(2)
    one.refresh_from_db()
    assert one.released


def test_one_whose_old_container_can_not_be_removed_is_replaced_elsewhere(app, world, hosts, loop, monkeypatch):
    deploy(app, world, instances=1, on_failure="restart")
    loop.settle()
    crash(world, hosts)

    def fails(*_, **__):
        raise EngineError("device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryEngine, "remove", fails)
        loop.settle(2)
        (one,) = Instance.objects.all()
        assert one.status == Status.PLACED
        Instance.objects.update(**past(status_since=3600))
        loop.settle(4)
    one.refresh_from_db()
    assert one.status == Status.FAILED
    (other,) = Instance.objects.filter(status=Status.HEALTHY)
    assert other.host_id != one.host_id


def test_one_whose_place_was_meant_for_a_rollout_that_was_cancelled_meanwhile_gives_it_back(serving, world, loop):
    rollout = start(serving, world, "in_place")
    reconcile_app(serving.pk, loop.clients)
    read = Instance.objects.get(status=Status.DRAINING)
    # The worker that read it is at its engine; the cancel comes, and something of the version stays for a while.
    rollout_cancel(app=serving, number=rollout.number, by=world.alice)
    ReplicaSet.objects.filter(pk=rollout.target_id).update(wanted=1)
    assert instances.instance_released(instance=read)
    assert not Instance.objects.filter(replica_set_id=rollout.target_id).exists()
    reconcile_instance(read.pk, loop.clients)
