"""Rolling, blue-green, canary and in place: who serves when, in which order, and the way back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.deployments.models import Instance, ReplicaSet, Rollout
from apps.deployments.reconcile import reconcile_app
from apps.deployments.services.diffing import release_diff
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import (
    RolloutNotOpen,
    RolloutNotPaused,
    RolloutSwitched,
    rollback_start,
    rollout_cancel,
    rollout_continue,
    rollout_pause,
    rollout_start,
)
from apps.deployments.services.strategies import Options, RolloutInvalid
from apps.deployments.tests.steps import deploy, nothing_held
from apps.hosts.engines.memory import NEVER_READY, exits
from apps.hosts.models import Host, PortAllocation

Status = Instance.Status
NEW = f"sha256:{'b' * 64}"


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


def start(app, world, strategy, version="2.0", instances=None, asked=None, **options):
    return rollout_start(
        app=app,
        version=version,
        by=world.alice,
        instances=instances,
        settings_=asked or ReleaseSettings(),
        options=Options(strategy=strategy, **options),
    )


def healthy(replica_set_id):
    return Instance.objects.filter(replica_set_id=replica_set_id, status=Status.HEALTHY).count()


def counted(app, discovery):
    """version -> published instances."""
    tags = [tag for tag, _ in discovery.nodes[app.slug]]
    return {tag: tags.count(tag) for tag in set(tags)}


def age(rollout, seconds=3600):
    """As if its phase had begun so long ago."""
    Rollout.objects.filter(pk=rollout.pk).update(phase_since=now() - timedelta(seconds=seconds))


def ended(rollout):
    rollout.refresh_from_db()
    return rollout.status


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (2, 0), (0, 1), (1, 2), (4, 0)])
def test_rolling_never_has_fewer_ready_nor_more_in_all_than_was_said(
    serving, world, loop, discovery, surge, unavailable
):
    rollout = start(serving, world, "rolling", max_surge=surge, max_unavailable=unavailable, judge_s=0)
    for _ in range(40):
        loop.step()
        live = Instance.objects.filter(app=serving, released=False, status__in=Instance.LIVE)
        assert sum(counted(serving, discovery).values()) >= 4 - unavailable
        assert live.count() <= 4 + surge
        if ended(rollout) == "succeeded":
            break
    assert rollout.status == "succeeded"
    loop.settle(3)
    assert counted(serving, discovery) == {"2.0": 4}
    assert discovery.weights[serving.slug] == {"2.0": 100}
    assert Instance.objects.filter(released=False).count() == 4


def test_an_old_instance_goes_only_once_gateways_have_acknowledged_the_new_one(serving, world, loop, discovery):
    rollout = start(serving, world, "rolling", max_surge=1, judge_s=0)
    discovery.automatic = False
    loop.settle(8)
    assert counted(serving, discovery) == {"1.0": 4, "2.0": 1}, "published, and nothing taken away"
    discovery.served["gw-1"] = discovery.zxid
    loop.step()
    assert counted(serving, discovery)["1.0"] == 3
    discovery.automatic = True
    discovery.served["gw-1"] = discovery.zxid
    loop.settle(25)
    assert ended(rollout) == "succeeded"


def test_a_gateway_that_never_acknowledges_holds_a_rollout_up_only_until_the_deadline(serving, world, loop, discovery):
    discovery.served["gw-2"] = 0
    rollout = start(serving, world, "rolling", max_surge=4, judge_s=0)
    discovery.automatic = False
    loop.settle(4)
    long_ago = (now() - timedelta(hours=1)).isoformat()
    rollout.refresh_from_db()
    rollout.timeline = [{**one, "at": long_ago} for one in rollout.timeline]
    Rollout.objects.filter(pk=rollout.pk).update(timeline=rollout.timeline)
    loop.step()
    rollout.refresh_from_db()
    assert rollout.phase == "ending"


def test_each_ready_instance_gets_the_same_share_while_a_rolling_rollout_is_under_way(serving, world, loop, discovery):
    start(serving, world, "rolling", max_surge=1, judge_s=0)
    seen = set()
    for _ in range(20):
        loop.step()
        reconcile_app(serving.pk, loop.clients)
        numbers = counted(serving, discovery)
        weights = discovery.weights[serving.slug]
        if len(numbers) == 2:
            whole = sum(numbers.values())
            assert abs(weights["2.0"] - 100 * numbers["2.0"] / whole) <= 1
            assert weights["1.0"] + weights["2.0"] == 100
            seen.add(weights["2.0"])
    assert len(seen) >= 3


def test_blue_green_moves_all_traffic_at_once_and_keeps_the_old_version_for_a_while(serving, world, loop, discovery):
    rollout = start(serving, world, "blue_green", keep_s=600, judge_s=0)
    for _ in range(12):
        loop.step()
        weights = discovery.weights[serving.slug]
        assert weights in ({"1.0": 100}, {"1.0": 100, "2.0": 0}, {"1.0": 0, "2.0": 100})
    rollout.refresh_from_db()
    assert (rollout.status, rollout.phase) == ("progressing", "keeping")
    assert healthy(rollout.source_id) == healthy(rollout.target_id) == 4
    age(rollout)
    loop.settle(4)
    assert ended(rollout) == "succeeded"
    assert counted(serving, discovery) == {"2.0": 4}


def test_cancelling_while_the_old_version_is_kept_switches_back_at_once(serving, world, loop, discovery):
    rollout = start(serving, world, "blue_green", keep_s=600, judge_s=0)
    loop.settle(8)
    assert discovery.weights[serving.slug] == {"1.0": 0, "2.0": 100}
    rollout_cancel(app=serving, number=rollout.number, by=world.alice)
    loop.step()
    assert discovery.weights[serving.slug] == {"1.0": 100}
    assert counted(serving, discovery) == {"1.0": 4}


def test_what_is_kept_goes_when_it_is_continued_or_when_another_rollout_waits(serving, world, loop):
    rollout = start(serving, world, "blue_green", keep_s=600, judge_s=0)
    loop.settle(8)
    rollout_continue(app=serving, number=rollout.number, by=world.alice)
    loop.settle(3)
    assert ended(rollout) == "succeeded"
    second = start(serving, world, "blue_green", version="1.0", keep_s=600, judge_s=0)
    loop.settle(8)
    second.refresh_from_db()
    assert second.phase == "keeping"
    third = start(serving, world, "rolling", judge_s=0)
    loop.settle(25)
    assert (ended(second), ended(third)) == ("succeeded", "succeeded")


def test_a_canary_goes_by_its_steps_by_time_and_by_hand(serving, world, loop, discovery):
    steps = [{"weight": 10, "pause_s": 60}, {"weight": 60, "pause_s": None}]
    rollout = start(serving, world, "canary", steps=steps, judge_s=0)
    loop.settle(5)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.step, rollout.phase) == ("progressing", 0, "judging")
    assert discovery.weights[serving.slug] == {"1.0": 90, "2.0": 10}
    assert counted(serving, discovery) == {"1.0": 4, "2.0": 1}
    age(rollout)
    loop.settle(5)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.step) == ("paused", 1)
    assert discovery.weights[serving.slug] == {"1.0": 40, "2.0": 60}
    assert counted(serving, discovery) == {"1.0": 4, "2.0": 3}
    age(rollout)
    loop.settle(3)
    assert ended(rollout) == "paused", "by hand means by hand"
    rollout_continue(app=serving, number=rollout.number, by=world.alice)
    loop.settle(6)
    assert ended(rollout) == "succeeded"
    assert counted(serving, discovery) == {"2.0": 4}


def test_a_canary_of_the_same_version_has_its_share_by_release(serving, world, loop):
    from apps.deployments.selectors import publication_of

    rollout = start(
        serving,
        world,
        "canary",
        version="1.0",
        asked=ReleaseSettings(env={"A": "1"}),
        steps=[{"weight": 10}],
        judge_s=0,
    )
    loop.settle(5)
    published = publication_of(serving.pk)
    assert published.weights == {"1.0": 100}
    shares = {share: len(containers) for share, containers in published.groups}
    assert shares == {90: 4, 10: 1}
    rollout_cancel(app=serving, number=rollout.number, by=world.alice)
    assert publication_of(serving.pk).groups == ()


def test_in_place_takes_over_host_and_port_one_at_a_time(serving, world, loop, discovery):
    places = set(Instance.objects.filter(app=serving, released=False).values_list("host_id", "port"))
    rollout = start(serving, world, "in_place", judge_s=0)
    for _ in range(60):
        loop.step()
        assert sum(counted(serving, discovery).values()) >= 3
        if ended(rollout) == "succeeded":
            break
    assert rollout.status == "succeeded"
    loop.settle(2)
    assert counted(serving, discovery) == {"2.0": 4}
    assert set(Instance.objects.filter(app=serving, released=False).values_list("host_id", "port")) == places
    assert PortAllocation.objects.filter(status="claimed").count() == 4
    assert not PortAllocation.objects.filter(status="quarantined").exists()


def test_in_place_falls_back_to_another_place_where_the_host_has_no_room_for_more(serving, world, hosts, loop):
    for host in hosts:
        type(host).objects.filter(pk=host.pk).update(memory_mb=768)
    spare = world.host()
    rollout = start(serving, world, "in_place", asked=ReleaseSettings(memory_mb=600), instances=1, judge_s=0)
    loop.settle(30)
    assert ended(rollout) == "succeeded"
    (one,) = Instance.objects.filter(app=serving, released=False)
    assert one.replica_set_id == rollout.target_id
    serving.tenant.quota.refresh_from_db()
    assert (serving.tenant.quota.memory_mb_used, serving.tenant.quota.instances_used) == (600, 1)
    assert spare.pk or one.host_id


@pytest.mark.parametrize("why", ["dedicated", "rules", "one per host"])
def test_in_place_keeps_no_host_that_a_placement_would_refuse(serving, world, hosts, loop, why):
    elsewhere = world.host(labels={"disk": "fast"})
    meant = [elsewhere.pk] * 4
    asked = ReleaseSettings()
    if why == "dedicated":
        Host.objects.filter(pk__in=[one.pk for one in hosts]).update(dedicated_to=world.rival)
    elif why == "rules":
        asked = ReleaseSettings(placement={"constraints": ["disk == fast"]})
    else:  # four are on three hosts
        asked = ReleaseSettings(placement={"anti_affinity": "hard"})
        meant = [one.pk for one in [*hosts, elsewhere]]
    rollout = start(serving, world, "in_place", asked=asked, judge_s=0)
    loop.settle(40)
    assert ended(rollout) == "succeeded"
    there = Instance.objects.filter(replica_set_id=rollout.target_id, released=False)
    assert sorted(there.values_list("host", flat=True)) == sorted(meant)


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "canary", "in_place"])
@pytest.mark.parametrize(("behaviour", "code"), [(exits(3), "instance.exited"), (NEVER_READY, "instance.never_ready")])
def test_a_release_that_does_not_get_ready_is_rolled_back_by_itself_with_its_cause(
    serving, world, hosts, loop, discovery, strategy, behaviour, code
):
    for host in hosts:
        world.engine_of(host).images[NEW] = behaviour
    rollout = start(serving, world, strategy)
    for _ in range(30):
        loop.step()
        assert counted(serving, discovery).get("1.0", 0) >= (3 if strategy == "in_place" else 4)
        starting = Instance.objects.filter(replica_set_id=rollout.target_id, status=Status.RUNNING)
        starting.update(deadline_at=now() - timedelta(seconds=1))
        if ended(rollout) == "rolled_back":
            break
    assert (rollout.status, rollout.code) == ("rolled_back", code)
    assert rollout.reason
    loop.settle(8)
    assert counted(serving, discovery) == {"1.0": 4}
    assert discovery.weights[serving.slug] == {"1.0": 100}
    assert Instance.objects.filter(released=False).count() == 4


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "canary", "in_place"])
@pytest.mark.parametrize("steps", [0, 2, 5, 8, 11])
def test_cancelled_at_any_point_the_old_version_serves_with_all_its_instances(
    serving, world, loop, discovery, strategy, steps
):
    rollout = start(serving, world, strategy, judge_s=0)
    for _ in range(steps):
        loop.step()
    rollout.refresh_from_db()
    if rollout.status == "succeeded" or rollout.phase == "ending":
        with pytest.raises((RolloutSwitched, RolloutNotOpen)):
            rollout_cancel(app=serving, number=rollout.number, by=world.alice)
        return
    rollout_cancel(app=serving, number=rollout.number, by=world.alice)
    least = 3 if strategy == "in_place" else 4
    for _ in range(10):
        loop.step()
        assert sum(counted(serving, discovery).values()) >= least
    assert counted(serving, discovery) == {"1.0": 4}
    assert discovery.weights[serving.slug] == {"1.0": 100}
    assert not ReplicaSet.objects.exclude(retiring_until=None).exists()
    assert Instance.objects.filter(released=False).count() == 4


def test_paused_it_goes_no_further_until_it_is_continued(serving, world, loop, discovery):
    rollout = start(serving, world, "rolling", max_surge=1, judge_s=0)
    loop.settle(2)
    rollout_pause(app=serving, number=rollout.number, by=world.alice)
    loop.settle(3)
    there = counted(serving, discovery)
    loop.settle(5)
    assert counted(serving, discovery) == there
    assert ended(rollout) == "paused"
    with pytest.raises(RolloutNotPaused):
        rollout_continue(app=serving, number=rollout_continue_twice(serving, world, rollout), by=world.alice)
    loop.settle(25)
    assert ended(rollout) == "succeeded"


def rollout_continue_twice(app, world, rollout):
    rollout_continue(app=app, number=rollout.number, by=world.alice)
    return rollout.number


def test_a_pause_that_nobody_ends_is_rolled_back(serving, world, loop, discovery):
    rollout = start(serving, world, "rolling", max_surge=1, judge_s=0)
    loop.settle(3)
    rollout_pause(app=serving, number=rollout.number, by=world.alice)
    Rollout.objects.filter(pk=rollout.pk).update(deadline_at=now() - timedelta(seconds=1))
    loop.settle(8)
    assert ended(rollout) == "rolled_back"
    assert counted(serving, discovery) == {"1.0": 4}


def test_what_finds_no_room_is_rolled_back_with_why(serving, world, hosts, loop, discovery):
    rollout = start(serving, world, "canary", steps=[{"weight": 10, "pause_s": 60}], judge_s=0)
    loop.settle(5)
    for host in hosts:
        type(host).objects.filter(pk=host.pk).update(memory_mb=1)
    age(rollout)
    loop.settle(4)
    Rollout.objects.filter(pk=rollout.pk).update(deadline_at=now() - timedelta(seconds=1))
    loop.settle(8)
    assert (ended(rollout), rollout.code) == ("rolled_back", "placement.no_host")
    assert "No host has room" in rollout.reason
    assert counted(serving, discovery) == {"1.0": 4}


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "yolo"},
        {"strategy": "rolling", "max_surge": 0, "max_unavailable": 0},
        {"strategy": "rolling", "max_surge": "101%"},
        {"strategy": "rolling", "max_surge": -1},
        {"strategy": "rolling", "max_surge": "many"},
        {"strategy": "rolling", "keep_s": 5},
        {"strategy": "rolling", "steps": [{"weight": 5}]},
        {"strategy": "canary", "steps": []},
        {"strategy": "canary", "steps": [{"weight": 50}, {"weight": 50}]},
        {"strategy": "canary", "steps": [{"weight": 100}]},
        {"strategy": "canary", "steps": [{"weight": True}]},
        {"strategy": "canary", "steps": [{"weight": 5, "pause_s": -1}]},
        {"strategy": "blue_green", "keep_s": 86401},
        {"strategy": "rolling", "judge_s": -1},
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_made(serving, world, options):
    with pytest.raises(RolloutInvalid):
        start(serving, world, **options)
    assert Rollout.objects.count() == 1
    assert serving.releases.count() == 1


def test_a_first_deploy_that_fails_has_failed_and_leaves_nothing(app, world, hosts, loop):
    for host in hosts:
        world.engine_of(host).default_behaviour = exits(1)
    rollout = start(app, world, "canary", version="1.0")
    loop.settle(12)
    assert (ended(rollout), rollout.code) == ("failed", "instance.exited")
    nothing_held(app)


def test_a_rollback_copies_every_column_of_a_release_but_which_one_it_is(serving, world, loop):
    everything = ReleaseSettings(
        secrets={"A": "1"},
        settings={"B": "2"},
        command=["run"],
        container_port=81,
        memory_mb=64,
        cpu_millis=20,
        health_path="/up",
        readiness={"interval_s": 3},
        liveness={"path": "/live"},
        on_failure="restart",
        stop_signal="SIGINT",
        stop_grace_s=3,
        placement={"anti_affinity": "preferred"},
    )
    start(serving, world, "rolling", asked=everything, supersede=True)
    old = serving.releases.first()
    new = rollback_start(app=serving, release=old.number, by=world.alice).target.release
    own = {"id", "number", "created_at"}
    columns = [field.attname for field in type(old)._meta.concrete_fields if field.name not in own]
    assert {name: getattr(new, name) for name in columns} == {name: getattr(old, name) for name in columns}
    assert release_diff(old=old, new=new) == []
