"""Hosts that die, come back, are drained; and global apps that follow them."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.models import Event
from apps.deployments import reconcile
from apps.deployments.models import Instance, ReplicaSet
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.services.rollouts import undeploy
from apps.deployments.services.strategies import Options
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import EngineInfo, NetworksExhausted
from apps.hosts.engines.memory import MemoryEngine
from apps.hosts.models import Allocation, Cluster, Host
from apps.hosts.services.hosts import host_set_availability

Status = Instance.Status
ALL_AT_ONCE = Options(strategy="blue_green", keep_s=0, judge_s=0)


@pytest.fixture
def hosts(world):
    return [world.host() for _ in range(3)]


def _cut(world, *hosts):
    """Nobody hears of these hosts any more, and has not for a minute."""
    for host in hosts:
        world.engine_of(host).unreachable = True
        Host.objects.filter(pk=host.pk).update(last_seen_at=now() - timedelta(minutes=1))


def _on(host, **values):
    return Instance.objects.filter(host=host, released=False, **values)


def _status(host):
    return Host.objects.get(pk=host.pk).status


def test_what_ran_on_a_dead_host_runs_elsewhere_and_its_containers_go_when_it_is_back(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    dead = hosts[0]
    (lost,) = _on(dead)
    _cut(world, dead)
    loop.settle(8)
    lost.refresh_from_db()
    assert (_status(dead), lost.status, lost.code, lost.released) == ("down", "lost", "host.lost", True)
    assert Instance.objects.filter(status=Status.HEALTHY, released=False).count() == 3
    assert not Allocation.objects.filter(host=dead).exists()
    app.tenant.quota.refresh_from_db()
    assert app.tenant.quota.instances_used == 3
    assert lost.container_id not in {container for _, container in loop.discovery.nodes[app.slug]}
    world.engine_of(dead).unreachable = False
    assert world.engine_of(dead).containers
    loop.step()
    assert not world.engine_of(dead).containers
    assert _status(dead) == "ready"


def test_a_host_that_is_back_is_not_ready_while_a_given_up_container_stays(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    _cut(world, hosts[0])
    loop.settle(8)
    engine = world.engine_of(hosts[0])
    engine.unreachable = False
    engine.fail_next("remove")
    loop.step()
    assert _status(hosts[0]) == "down"
    loop.step()
    assert (_status(hosts[0]), engine.containers) == ("ready", {})


def test_an_instance_that_still_serves_is_not_lost_when_its_hosts_engine_hangs(app, world, hosts, loop, monkeypatch):
    deploy(app, world, instances=3)
    loop.settle()
    engine = world.engine_of(hosts[0])
    engine.fail_next("ping", times=50)
    Host.objects.filter(pk=hosts[0].pk).update(last_seen_at=now() - timedelta(minutes=1))
    loop.settle(8)
    assert _status(hosts[0]) == "down"
    assert _on(hosts[0], status=Status.HEALTHY).count() == 1
    assert not Instance.objects.filter(status=Status.LOST).exists()


def test_when_most_hosts_fall_silent_nothing_is_given_up_and_one_alert_says_why(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    _cut(world, *hosts[:2])
    loop.settle(8)
    assert not Instance.objects.filter(status=Status.LOST).exists()
    alert = Event.objects.get(code="cluster.evictions_stopped")
    assert (alert.level, alert.detail["silent"], alert.detail["answering"]) == ("error", 2, 1)
    world.engine_of(hosts[0]).unreachable = False
    loop.settle(8)
    assert Event.objects.filter(code="cluster.evictions_resumed").count() == 1
    assert Instance.objects.filter(status=Status.LOST).count() == 1, "that of the host that is still gone"
    assert Instance.objects.filter(status=Status.HEALTHY, released=False).count() == 3


def test_what_is_leaving_a_dead_host_frees_what_it_holds(app, world, hosts, loop):
    from apps.deployments.services.rollouts import undeploy

    deploy(app, world, instances=3)
    loop.settle()
    _cut(world, hosts[0])
    loop.step()
    undeploy(app=app, by=world.alice)
    loop.settle(8)
    assert not Instance.objects.filter(released=False).exists()
    assert not Allocation.objects.exists()


def test_a_drained_host_is_emptied_one_by_one_and_a_new_one_is_ready_first(app, world, hosts, loop):
    deploy(app, world, instances=6)
    loop.settle()
    drained = hosts[0]
    assert _on(drained).count() == 2
    host_set_availability(host=drained, availability="draining", by="root")
    fewest, most = 6, 0
    for _ in range(30):
        loop.step()
        ready = len(loop.discovery.nodes[app.slug])
        fewest, most = min(fewest, ready), max(most, Instance.objects.filter(released=False).count())
    assert fewest == 6, "at no moment fewer served than were wanted"
    assert most <= 8, "one moves at a time"
    assert not _on(drained).exists()
    assert Instance.objects.filter(status=Status.HEALTHY, released=False).count() == 6
    assert Host.objects.get(pk=drained.pk).availability == "cordoned"
    assert Event.objects.filter(code="host.drained", host_id=drained.pk).count() == 1


def test_draining_needs_no_room_in_the_tenants_quota(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    quota = app.tenant.quota
    quota.refresh_from_db()
    quota.instances = 3
    quota.save()
    host_set_availability(host=hosts[0], availability="draining")
    loop.settle(12)
    assert not _on(hosts[0]).exists()
    quota.refresh_from_db()
    assert quota.instances_used == 3


def test_a_host_taken_back_into_service_keeps_what_did_not_move_yet(app, world, hosts, loop):
    deploy(app, world, instances=6)
    loop.settle()
    host_set_availability(host=hosts[0], availability="draining")
    loop.step()
    host_set_availability(host=hosts[0], availability="active")
    loop.settle(12)
    assert Instance.objects.filter(status=Status.HEALTHY, released=False).count() == 6


def test_draining_waits_with_an_event_where_there_is_no_room_elsewhere(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    for host in hosts[1:]:
        host_set_availability(host=host, availability="cordoned")
    host_set_availability(host=hosts[0], availability="draining")
    loop.settle()
    assert _on(hosts[0], status=Status.HEALTHY).count() == 1
    assert Event.objects.filter(code="placement.waiting").count() == 1
    host_set_availability(host=hosts[1], availability="active")
    ReplicaSet.objects.update(retry_at=None)
    loop.settle(8)
    assert not _on(hosts[0]).exists()


def test_what_is_missing_is_placed_as_far_as_it_fits(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    for host in hosts:
        Host.objects.filter(pk=host.pk).update(memory_mb=2 * 256)
    ReplicaSet.objects.update(wanted=9)
    loop.settle()
    assert Instance.objects.filter(status=Status.HEALTHY, released=False).count() == 6
    event = Event.objects.filter(code="placement.waiting").latest("pk")
    assert "not enough memory: 3" in event.message


def test_a_global_app_runs_once_on_every_matching_host_and_follows_them(app, world, hosts, loop):
    Host.objects.filter(pk__in=[hosts[0].pk, hosts[1].pk]).update(labels={"disk": "ssd"})
    rules = {"constraints": ["disk == ssd"], "global": True}
    rollout = deploy(app, world, instances=None, placement=rules)
    loop.settle()
    rollout.refresh_from_db()
    assert (rollout.status, rollout.instances) == ("succeeded", 2)
    joined = world.host(labels={"disk": "ssd"})
    loop.settle()
    assert Counter(Instance.objects.filter(released=False).values_list("host_id", flat=True)) == {
        hosts[0].pk: 1, hosts[1].pk: 1, joined.pk: 1,
    }  # fmt: skip
    host_set_availability(host=hosts[0], availability="draining")
    Host.objects.filter(pk=hosts[1].pk).update(labels={})
    loop.settle(8)
    assert [one.host_id for one in Instance.objects.filter(released=False)] == [joined.pk]


def test_a_global_app_keeps_its_instance_on_a_host_that_is_only_silent(app, world, hosts, loop):
    deploy(app, world, instances=None, placement={"global": True})
    loop.settle()
    Host.objects.filter(pk=hosts[0].pk).update(status="suspect", disk_pressure=True)
    from apps.deployments.reconcile import reconcile_app

    reconcile_app(app.pk, loop.clients)
    assert _on(hosts[0], status=Status.HEALTHY).count() == 1


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"constraints": ["zone = a"]}, "placement.rules_invalid"),
        ({"nonsense": 1}, "placement.rules_invalid"),
        ({"affinity": ["theirs"]}, "placement.rules_invalid"),
        ({"anti_affinity": "maybe"}, "placement.rules_invalid"),
        ({"min_engine": "new"}, "placement.rules_invalid"),
        ({"global": "yes"}, "placement.rules_invalid"),
        ({"constraints": ["zone == mars"]}, "placement.no_host"),
        ({"constraints": ["zone == mars"], "global": True}, "placement.no_host"),
        ({"min_engine": "99.0"}, "placement.no_host"),
    ],
)
def test_rules_that_can_not_be_kept_are_refused_with_a_code(app, world, hosts, rules, code):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    with pytest.raises(BerthError) as caught:
        deploy(app, world, instances=None, placement=rules)
    assert caught.value.code == code
    assert not Instance.objects.exists()


def test_rules_stay_with_the_next_release_and_reach_the_choice_of_hosts(app, world, hosts, loop):
    Host.objects.filter(pk=hosts[2].pk).update(labels={"zone": "eu"})
    world.engine_of(hosts[2]).info = EngineInfo("24.0.7", 4000, 8192)
    loop.step()
    deploy(app, world, instances=1, placement={"constraints": ["zone in (eu, us)"], "min_engine": "24.0"})
    loop.settle()
    deploy(app, world, instances=2)
    loop.settle()
    assert {one.host_id for one in Instance.objects.filter(released=False)} == {hosts[2].pk}


def test_instances_of_an_app_beside_another_run_where_that_one_runs(app, world, hosts, loop):
    deploy(app, world, instances=1)
    loop.settle()
    beside = world.app("beside")
    world.push(beside)
    deploy(beside, world, instances=2, placement={"affinity": [app.slug]})
    assert {one.host_id for one in beside.instances.all()} == {one.host_id for one in app.instances.all()}


def test_a_dedicated_host_takes_its_tenants_instances_only(app, world, hosts, loop):
    Host.objects.filter(pk__in=[hosts[0].pk, hosts[1].pk]).update(dedicated_to=world.rival)
    deploy(app, world, instances=3)
    assert {one.host_id for one in app.instances.all()} == {hosts[2].pk}


def test_a_release_with_hard_anti_affinity_has_one_per_host_and_its_successor_fits_beside_it(app, world, hosts, loop):
    deploy(app, world, instances=3, placement={"anti_affinity": "hard"})
    loop.settle()
    rollout = deploy(app, world, instances=3)
    loop.settle(8)
    rollout.refresh_from_db()
    assert rollout.status == "succeeded"
    with pytest.raises(BerthError, match="runs one of this release already: 3"):
        deploy(app, world, instances=4, options=ALL_AT_ONCE)


# --- what two reviews found: interleavings in which each step alone is right ---


def test_a_rollout_on_a_host_that_is_drained_does_not_end_with_fewer_than_wanted(app, world, hosts, loop, monkeypatch):
    """Of two one never gets ready; the other moves, so that for a moment there are two of it."""
    deploy(app, world)
    loop.settle()
    world.push(app, tag="2.0", digest="b" * 64)
    rollout = deploy(app, world, version="2.0", options=ALL_AT_ONCE, placement={"anti_affinity": "hard"})
    moved, never = rollout.target.instances.order_by("pk")
    asked = loop.clients.probe

    def probe(targets):
        return {**asked(targets), **{one.pk: Wrong("not yet") for one in targets if one.pk == never.pk}}

    monkeypatch.setattr(loop.clients, "probe", probe)
    loop.settle(3)
    host_set_availability(host=moved.host, availability="draining")
    loop.settle(5)
    healthy = rollout.target.instances.filter(status=Status.HEALTHY, released=False)
    assert healthy.filter(replaces=moved).exists(), "its successor is ready"
    rollout.refresh_from_db()
    assert (rollout.status, rollout.switched_route) == ("progressing", None)
    assert len(loop.discovery.nodes[app.slug]) >= 2


def test_an_instance_given_up_after_it_was_unpublished_is_released_although_zookeeper_was_lost(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    (one,) = _on(hosts[0])
    _cut(world, hosts[0])
    Host.objects.filter(pk=hosts[0].pk).update(status="suspect")
    undeploy(app=app, by=world.alice)
    loop.discovery.automatic = False  # no gateway answers for it in this epoch any more
    reconcile.reconcile_app(app.pk, loop.clients)
    reconcile.reconcile_instance(one.pk, loop.clients)
    one.refresh_from_db()
    assert (one.status, one.unrouted_zxid > 0) == ("draining", True)
    loop.discovery.automatic = True
    loop.discovery.epoch_name = "epoch-9"
    loop.settle(8)
    one.refresh_from_db()
    assert (one.status, one.released) == ("lost", False)
    Instance.objects.filter(pk=one.pk).update(deadline_at=one.deadline_at - timedelta(minutes=5))
    loop.settle(3)
    one.refresh_from_db()
    assert (one.status, one.released) == ("lost", True)


def test_that_evictions_stopped_is_told_each_time_and_ends_when_the_hosts_answer(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    for number in (1, 2):
        _cut(world, *hosts[:2])
        loop.settle(8)
        assert Cluster.objects.get().evictions_stopped_at is not None
        for host in hosts[:2]:
            world.engine_of(host).unreachable = False
        loop.settle(3)
        assert Cluster.objects.get().evictions_stopped_at is None
        for code in ("cluster.evictions_stopped", "cluster.evictions_resumed"):
            assert Event.objects.filter(code=code).count() == number


def test_one_that_starts_while_its_host_is_listed_has_not_vanished(app, world, hosts, loop, monkeypatch):
    """Started by another worker, whose clock is behind, right after the list was taken."""
    deploy(app, world, instances=1)
    one = Instance.objects.get()
    listed = MemoryEngine.list

    def slow(self, platform):
        found = listed(self, platform)
        monkeypatch.setattr(MemoryEngine, "list", listed)
        reconcile.reconcile_instance(one.pk, loop.clients)
        Instance.objects.filter(pk=one.pk).update(status_since=now() - timedelta(seconds=1))
        return found

    monkeypatch.setattr(MemoryEngine, "list", slow)
    reconcile.observe_host(one.host_id, loop.clients)
    one.refresh_from_db()
    assert (one.status, one.code) == ("healthy", "")


def test_a_host_is_not_ready_while_what_was_given_up_on_it_may_still_be_routed_to(app, world, hosts, loop):
    deploy(app, world, instances=3)
    loop.settle()
    (one,) = _on(hosts[0])
    loop.discovery.automatic = False
    _cut(world, hosts[0])
    loop.settle(8)
    one.refresh_from_db()
    assert (one.status, one.released) == ("lost", False)
    world.engine_of(hosts[0]).unreachable = False
    loop.step()
    assert _status(hosts[0]) == "down"
    loop.discovery.served = {"gw-1": loop.discovery.zxid}
    loop.settle(3)
    assert (_status(hosts[0]), world.engine_of(hosts[0]).containers) == ("ready", {})


def test_one_host_on_which_a_global_app_can_not_run_holds_up_no_other(app, world, hosts, loop, monkeypatch):
    deploy(app, world, instances=None, placement={"global": True})
    loop.settle()
    bad = world.host()
    ensure = MemoryEngine.ensure

    def refuse(self, spec, **values):
        if spec.host_ip == bad.address:
            raise NetworksExhausted("none left")
        return ensure(self, spec, **values)

    monkeypatch.setattr(MemoryEngine, "ensure", refuse)
    loop.settle(20)
    tried = Instance.objects.filter(host=bad).count()
    assert 1 < tried <= 5
    other = world.host()
    loop.settle(5)
    assert _on(other, status=Status.HEALTHY).count() == 1
    assert Instance.objects.filter(host=bad).count() == tried, "it rests"
