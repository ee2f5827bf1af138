"""What follows from failed checks: traffic, restarts in place, replacement, removal, a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.models import Instance, ReplicaSet, Rollout
from apps.deployments.reconcile import observe_host, probe_pass, reconcile_instance
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.selectors import next_to_start, unfinished_instances
from apps.deployments.services.failing import COUNTED, answers_counted, instance_broken
from apps.deployments.services.instances import instance_drain, instance_lost
from apps.deployments.tests.steps import deploy, nothing_held
from apps.hosts.engines.base import CommandResult
from apps.hosts.models import Host, PortAllocation

Status = Instance.Status
READY, LIVE = "/ready", "/live"
OWN_LIVENESS = {"health_path": READY, "liveness": {"path": LIVE}}


@pytest.fixture(autouse=True)
def clocks_agree(monkeypatch):
    """Here one process looks and probes, so that a host heard of at all was heard of later."""
    monkeypatch.setattr("apps.deployments.reconcile.probes.CLOCKS_APART_S", -60)


@pytest.fixture
def fails(loop, monkeypatch):
    """Paths that are answered badly from now on, by every instance."""
    paths = {}
    probe = loop.clients.probe

    def asked(targets):
        return {
            pk: wrong
            or next((paths[one.check.path] for one in targets if one.pk == pk and one.check.path in paths), None)
            for pk, wrong in probe(targets).items()
        }

    monkeypatch.setattr(loop.clients, "probe", asked)
    return paths


def _only(**values):
    return Instance.objects.get(released=False, **values)


def _ready(app, world, loop, *, instances=1, **values):
    deploy(app, world, instances=instances, **values)
    loop.settle()
    assert Rollout.objects.get().status == "succeeded"
    return Instance.objects.filter(status=Status.HEALTHY).order_by("pk").first()


def _events(code):
    return Event.objects.filter(code=code).count()


def _crash(world, instance):
    engine = world.engine_of(instance.host)
    name = next(one for one in engine.containers if one.endswith(instance.short_id))
    engine.crash(name, 3)
    return engine


# Readiness and liveness apart -------------------------------------------------------------------------------------


def test_one_that_loses_its_readiness_gets_no_traffic_until_it_is_ready_again(app, world, loop, fails):
    one = _ready(app, world, loop, **OWN_LIVENESS)
    fails[READY] = Wrong("it answered 503")
    loop.settle(4)
    same = _only()
    assert (same.pk, same.status, same.deadline_at, same.container_id) == (one.pk, "running", None, one.container_id)
    assert loop.discovery.nodes[app.slug] == {}
    assert _events("instance.unready") == 1
    loop.settle(4)
    assert _only().status == Status.RUNNING, "however long it takes"
    del fails[READY]
    loop.settle(2)
    assert _only().status == Status.HEALTHY
    assert [container for _, container in loop.discovery.nodes[app.slug]] == [one.container_id]


@pytest.mark.parametrize("also_unready", [False, True])
def test_one_that_is_not_alive_is_replaced_by_its_own_liveness_check(app, world, loop, fails, also_unready):
    one = _ready(app, world, loop, **OWN_LIVENESS)
    if also_unready:
        fails[READY] = Wrong("it answered 503")
        loop.settle(4)
    fails[LIVE] = Wrong("it answered 500")
    for _ in range(2):
        probe_pass(loop.clients)
    one.refresh_from_db()
    assert one.live_failures == 2
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert (one.status, one.code) == (Status.UNHEALTHY, "instance.unhealthy")
    fails.clear()
    loop.settle()
    assert _only().status == Status.HEALTHY
    assert _only().pk != one.pk


def test_liveness_is_not_asked_before_it_was_ready(app, world, loop, fails):
    fails[READY] = fails[LIVE] = Wrong("it answered 500")
    deploy(app, world, instances=1, **OWN_LIVENESS)
    loop.settle()
    assert (_only().status, _only().live_failures, _only().failures) == (Status.RUNNING, 0, 0)


def test_a_threshold_and_a_start_period_of_its_own(app, world, loop, fails):
    one = _ready(app, world, loop, readiness={"path": READY, "failures": 5, "start_period_s": 500})
    fails[READY] = Wrong("it answered 500")
    for _ in range(4):
        probe_pass(loop.clients)
    one.refresh_from_db()
    assert (one.status, one.failures) == (Status.HEALTHY, 4)
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert one.status == Status.UNHEALTHY
    loop.settle(1)
    waiting = Instance.objects.get(status=Status.RUNNING)
    assert now() + timedelta(seconds=400) < waiting.deadline_at < now() + timedelta(seconds=501)


def test_the_last_failed_check_is_kept_and_goes_with_the_count_only(app, world, loop, fails, django_assert_num_queries):
    one = _ready(app, world, loop, health_path=READY)
    fails[READY] = Wrong("it answered 503", "HTTP/1.1 503 x\nno database")
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert one.last_check == "GET /ready on port 8080: it answered 503\nHTTP/1.1 503 x\nno database"
    assert one.host.address not in one.last_check
    del fails[READY]
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert (one.failures, one.failing_since) == (0, None)
    assert one.last_check, "what was last wrong is still of interest"
    with django_assert_num_queries(3):  # instances, hosts and releases: a good answer changes nothing
        probe_pass(loop.clients)


def test_counting_stops_where_nothing_depends_on_it(app, world, loop, fails, monkeypatch):
    one = _ready(app, world, loop, health_path=READY, on_failure="report")
    Instance.objects.filter(pk=one.pk).update(failures=COUNTED, failing_since=now(), code="instance.unhealthy")
    fails[READY] = Wrong("it answered 503")
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert one.failures == COUNTED


def test_a_count_that_somebody_else_made_is_not_made_twice(app, world, loop):
    one = _ready(app, world, loop)
    both = {"pks": [one.pk], "live": False, "was": 0, "count": 1, "last_check": "x", "acts": True}
    assert answers_counted(**both)
    assert not answers_counted(**both)


# Restart in place -------------------------------------------------------------------------------------------------


def test_one_that_crashed_is_started_anew_where_it_is(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    port = PortAllocation.objects.get()
    _crash(world, one)
    loop.settle()
    again = _only()
    assert (again.pk, again.host_id, again.port, again.status) == (one.pk, one.host_id, one.port, Status.HEALTHY)
    assert again.container_id != one.container_id
    assert (again.restarts, again.code, again.was_routed, again.unrouted_zxid) == (1, "", True, 0)
    assert [container for _, container in loop.discovery.nodes[app.slug]] == [again.container_id]
    assert PortAllocation.objects.get().pk == port.pk
    assert Instance.objects.count() == 1
    assert _events("instance.restarting") == 1


def test_its_old_container_stays_until_the_gateways_let_go(app, world, loop, fails):
    one = _ready(app, world, loop, on_failure="restart", health_path=READY)
    engine = world.engine_of(one.host)
    loop.discovery.automatic = False
    fails[READY] = Wrong("no answer within 2 s")
    loop.settle(6)
    waiting = _only()
    assert (waiting.status, waiting.container_id) == (Status.PLACED, one.container_id)
    assert loop.discovery.nodes[app.slug] == {}
    assert {held.observed.container_id for held in engine.containers.values()} == {one.container_id}
    loop.discovery.served = {"gw-1": loop.discovery.zxid}
    fails.clear()
    loop.settle()
    assert _only().status == Status.HEALTHY
    assert {held.observed.container_id for held in engine.containers.values()} == {_only().container_id}


def test_restarts_are_three_at_once_then_ever_rarer_and_forgotten_after_a_calm_while(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    for count in (1, 2, 3):
        _crash(world, one)
        loop.settle(3)
        assert (_only().status, _only().restarts) == (Status.HEALTHY, count)
    for count, delay in ((4, 30), (5, 60), (6, 120)):
        _crash(world, one)
        loop.settle(3)
        resting = _only()
        assert (resting.status, resting.container_id, resting.restarts) == (Status.PLACED, "", count)
        assert timedelta(seconds=delay - 10) < resting.retry_at - now() <= timedelta(seconds=delay)
        Instance.objects.update(status_since=now() - timedelta(seconds=5))
        assert unfinished_instances(10) == []
        assert next_to_start(one.host_id) == []
        Instance.objects.update(retry_at=now() - timedelta(seconds=1))
        assert unfinished_instances(10) == [(one.pk,)]
        reconcile_instance(one.pk, loop.clients)
        assert _only().status == Status.HEALTHY
    Instance.objects.update(status_since=now() - timedelta(minutes=6))
    _crash(world, one)
    loop.settle(3)
    assert (_only().status, _only().restarts) == (Status.HEALTHY, 1)


def test_one_that_rests_can_be_drained_and_leaves_nothing(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    Instance.objects.update(restarts=9)
    _crash(world, one)
    loop.settle(3)
    resting = _only()
    assert resting.status == Status.PLACED
    app.replica_sets.update(wanted=0)
    assert instance_drain(instance=resting)
    Instance.objects.update(status_since=now() - timedelta(seconds=5))
    assert unfinished_instances(10) == [(one.pk,)], "its rest does not hold up its end"
    loop.settle()
    nothing_held(app)


def test_one_that_rests_on_a_host_that_dies_is_lost(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    Instance.objects.update(restarts=9)
    _crash(world, one)
    loop.settle(3)
    assert instance_lost(instance=_only())


def test_an_observation_of_the_old_container_harms_not_the_new_one(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    stale = Instance.objects.select_related("app", "replica_set__release").get(pk=one.pk)
    _crash(world, one)
    loop.settle(3)
    assert not instance_broken(instance=stale, code="instance.exited", reason="Again.", exit_code=3)
    assert (_only().status, _only().restarts) == (Status.HEALTHY, 1)


def test_a_look_that_began_before_a_restart_says_nothing_of_the_new_container(app, world, loop, monkeypatch):
    one = _ready(app, world, loop, on_failure="restart")
    engine = loop.clients.engine(one.host)

    def slow(platform):
        """It saw neither the old container nor the new one."""
        Instance.objects.update(container_id="f" * 64)
        return []

    monkeypatch.setattr(engine, "list", slow)
    observe_host(one.host_id, loop.clients)
    assert (_only().status, _only().restarts) == (Status.HEALTHY, 0)


def test_one_that_crashes_as_it_starts_is_restarted_with_its_container_removed(app, world, loop):
    one = _ready(app, world, loop, on_failure="restart")
    engine = world.engine_of(one.host)
    engine.default_behaviour = replace(engine.default_behaviour, exit_code=1)
    _crash(world, one)
    loop.settle(8)
    resting = _only()
    assert (resting.status, resting.restarts, resting.code, resting.exit_code) == ("placed", 4, "instance.exited", 1)
    assert engine.containers == {}
    engine.default_behaviour = replace(engine.default_behaviour, exit_code=None)
    Instance.objects.update(retry_at=now())
    loop.settle()
    assert _only().status == Status.HEALTHY


# The other policies -----------------------------------------------------------------------------------------------


def test_one_that_is_removed_is_not_replaced_and_frees_what_it_held(app, world, loop):
    one = _ready(app, world, loop, instances=2, on_failure="remove")
    _crash(world, one)
    loop.settle()
    assert ReplicaSet.objects.get().wanted == 1
    assert _only().pk != one.pk
    app.tenant.quota.refresh_from_db()
    assert app.tenant.quota.instances_used == 1
    event = Event.objects.get(code="instance.removed")
    assert "1 are wanted now" in event.message
    assert _events("instance.failed") == 1


def test_a_report_is_made_once_a_bout_and_the_instance_serves_on(app, world, loop, fails):
    one = _ready(app, world, loop, health_path=READY, on_failure="report")
    for bout in (1, 2):
        fails[READY] = Wrong("it answered 503")
        loop.settle(6)
        assert (_only().pk, _only().status, _only().code) == (one.pk, Status.HEALTHY, "instance.unhealthy")
        assert _events("instance.unhealthy") == bout
        fails.clear()
        loop.settle(2)
        assert (_only().code, _only().failures) == ("", 0)
    assert loop.discovery.nodes[app.slug]


def test_only_to_report_one_that_is_dead_would_help_nobody_so_it_is_replaced(app, world, loop):
    one = _ready(app, world, loop, on_failure="report")
    _crash(world, one)
    loop.settle()
    assert _only().status == Status.HEALTHY
    assert _only().pk != one.pk


@pytest.mark.parametrize("policy", ["restart", "remove", "report"])
def test_while_it_is_rolled_out_failures_are_replaced_and_counted_against_the_rollout(app, world, hosts, loop, policy):
    for host in hosts:
        engine = world.engine_of(host)
        engine.default_behaviour = replace(engine.default_behaviour, exit_code=7)
    rollout = deploy(app, world, instances=1, on_failure=policy)
    loop.settle(12)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == ("failed", "instance.exited")
    assert Instance.objects.filter(status=Status.FAILED).count() == 3
    nothing_held(app)


# Commands ---------------------------------------------------------------------------------------------------------

COMMAND = {"readiness": {"command": ["/bin/ok"]}}


def _says(world, instance, result):
    for container in world.engine_of(instance.host).containers.values():
        container.behaviour = replace(container.behaviour, commands={("/bin/ok",): result})


def test_a_command_decides_and_what_it_said_is_kept(app, world, loop):
    one = _ready(app, world, loop, **COMMAND)
    _says(world, one, CommandResult(2, b"disk \x1b[31mfull"))
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert one.failures == 1
    assert one.last_check == ("the command /bin/ok: it ended with exit code 2\ndisk \N{REPLACEMENT CHARACTER}[31mfull")
    _says(world, one, CommandResult(None))
    probe_pass(loop.clients)
    one.refresh_from_db()
    assert (one.failures, one.last_check) == (2, "the command /bin/ok: it did not end within 2 s")
    loop.settle()
    assert _only().pk != one.pk


def test_an_engine_that_does_not_run_the_command_proves_nothing(app, world, loop):
    one = _ready(app, world, loop, **COMMAND)
    world.engine_of(one.host).fail_next("check", times=50)
    for _ in range(6):
        probe_pass(loop.clients)
    one.refresh_from_db()
    assert (one.status, one.failures) == (Status.HEALTHY, 0)


def test_on_a_silent_host_no_command_is_tried(app, world, loop):
    one = _ready(app, world, loop, **COMMAND)
    Host.objects.update(status="suspect")
    before = world.engine_of(one.host).calls["check"]
    probe_pass(loop.clients)
    assert world.engine_of(one.host).calls["check"] == before
