"""Several instances of a host are started together: each as if it were alone, and none because of the others."""

from __future__ import annotations

import pytest

from apps.core import jobs
from apps.core.clock import after
from apps.core.leases import held_together
from apps.core.models import Event
from apps.deployments import reconcile
from apps.deployments.models import Instance
from apps.deployments.selectors import unfinished_instances
from apps.deployments.services.instances import instance_drain, instances_ready, instances_starting
from apps.deployments.tests.steps import deploy, nothing_held
from apps.hosts.engines.base import EngineUnreachable, SpecRefused
from apps.hosts.engines.memory import MemoryEngine, exits

Status = Instance.Status


@pytest.fixture
def placed(app, world, hosts):
    """Four on one host, not started yet."""
    for host in hosts[1:]:
        type(host).objects.filter(pk=host.pk).update(availability="cordoned")
    deploy(app, world, instances=4)
    rows = list(Instance.objects.order_by("pk"))
    assert len(rows) == 4
    assert {one.host_id for one in rows} == {hosts[0].pk}
    return rows


def _statuses():
    return list(Instance.objects.order_by("pk").values_list("status", flat=True))


def _start(placed, loop):
    reconcile.start_instances([one.pk for one in placed], loop.clients)


def test_what_is_placed_on_a_host_is_started_and_found_ready_by_one_task(placed, app, loop):
    _start(placed, loop)
    assert _statuses() == [Status.HEALTHY] * 4
    assert len(set(Instance.objects.values_list("container_id", flat=True))) == 4
    assert Event.objects.filter(code="instance.ready").count() == 4
    assert not Instance.objects.exclude(lease_until=None).exists()
    assert not Instance.objects.filter(ready_at=None).exists()


def test_a_placement_sends_a_task_for_each_host_not_for_each_instance(
    app, world, hosts, django_capture_on_commit_callbacks, nudges
):
    with django_capture_on_commit_callbacks(execute=True):
        deploy(app, world, instances=6)
    starts = [ids for name, ids in nudges if name == jobs.START_INSTANCES]
    assert sorted(pk for ids in starts for pk in ids) == sorted(Instance.objects.values_list("pk", flat=True))
    for ids in starts:
        assert Instance.objects.filter(pk__in=ids).values("host_id").distinct().count() == 1
    assert len(starts) == len(hosts)


def test_one_that_somebody_else_is_at_is_left_to_that_one(placed, loop):
    Instance.objects.filter(pk=placed[1].pk).update(lease_owner="another", lease_until=after(30))
    _start(placed, loop)
    assert _statuses() == [Status.HEALTHY, Status.PLACED, Status.HEALTHY, Status.HEALTHY]


def test_one_that_is_drained_meanwhile_is_not_started_any_more_and_goes_its_way(
    placed, app, loop, monkeypatch, nudges, django_capture_on_commit_callbacks
):
    ensure = MemoryEngine.ensure
    drained = []

    def slow(self, spec, *, pull_token):
        if not drained:
            drained.append(spec.instance)
        return ensure(self, spec, pull_token=pull_token)

    def started(*, containers):
        for one in containers:
            if one.short_id in drained:
                instance_drain(instance=Instance.objects.select_related("app").get(pk=one.pk))
        return real(containers=containers)

    real = reconcile.starting.instances_started
    monkeypatch.setattr(MemoryEngine, "ensure", slow)
    monkeypatch.setattr(reconcile.starting, "instances_started", started)
    with django_capture_on_commit_callbacks(execute=True):
        _start(placed, loop)
    left = Instance.objects.get(status=Status.DRAINING)
    assert left.short_id == drained[0]
    assert sorted(_statuses()) == [Status.DRAINING, *[Status.HEALTHY] * 3]
    assert (jobs.RECONCILE_INSTANCE, (left.pk,)) in nudges[-1:], "the nudge that came meanwhile found it leased"


def test_one_that_can_not_be_started_holds_none_of_the_others_up(placed, app, loop, monkeypatch):
    ensure = MemoryEngine.ensure

    def picky(self, spec, *, pull_token):
        if spec.instance == placed[2].short_id:
            raise SpecRefused("no")
        return ensure(self, spec, pull_token=pull_token)

    monkeypatch.setattr(MemoryEngine, "ensure", picky)
    _start(placed, loop)
    assert _statuses() == [Status.HEALTHY, Status.HEALTHY, Status.FAILED, Status.HEALTHY]
    assert Instance.objects.get(status=Status.FAILED).code == SpecRefused.code


def test_what_ends_at_once_is_failed_one_by_one(placed, app, world, hosts, loop):
    world.engine_of(hosts[0]).default_behaviour = exits(3)
    _start(placed, loop)
    assert _statuses() == [Status.FAILED] * 4
    assert set(Instance.objects.values_list("exit_code", flat=True)) == {3}


def test_a_host_that_does_not_answer_is_asked_no_more_than_a_few_times(placed, loop, monkeypatch):
    asked = []

    def away(self, spec, *, pull_token):
        asked.append(spec.instance)
        raise EngineUnreachable("time-out")

    monkeypatch.setattr(MemoryEngine, "ensure", away)
    monkeypatch.setattr(reconcile.starting, "AT_ONCE", 2)
    _start(placed, loop)
    assert len(asked) == 2
    assert _statuses() == [Status.STARTING] * 4
    assert not Instance.objects.exclude(lease_until=None).exists()


def test_a_busy_host_takes_no_more_and_the_next_task_takes_up_what_was_turned_away(
    placed, app, loop, monkeypatch, nudges, django_capture_on_commit_callbacks
):
    others = placed[2:]
    Instance.objects.filter(pk__in=[one.pk for one in others]).update(
        lease_owner="x", lease_until=after(30), status=Status.STARTING
    )
    monkeypatch.setattr("apps.deployments.selectors.loop.WORKERS_PER_HOST", 2)
    _start(placed[:2], loop)
    assert _statuses() == [Status.STARTING] * 4
    Instance.objects.filter(pk__in=[one.pk for one in others]).update(lease_owner="", lease_until=None)
    with django_capture_on_commit_callbacks(execute=True):
        _start(others, loop)
    assert (jobs.START_INSTANCES, tuple(one.pk for one in placed[:2])) in nudges


def test_what_waits_on_a_host_is_swept_together(placed):
    Instance.objects.update(status_since=after(-5))
    assert unfinished_instances(100) == [tuple(one.pk for one in placed)]
    assert unfinished_instances(100, 30.0) == [], "its message is still on its way"
    Instance.objects.filter(pk=placed[0].pk).update(status=Status.DRAINING)
    assert sorted(unfinished_instances(100)) == [(placed[0].pk,), tuple(one.pk for one in placed[1:])]


def test_of_several_only_those_move_that_nobody_moved_first(placed):
    Instance.objects.filter(pk=placed[0].pk).update(status=Status.FAILED)
    assert [one.pk for one in instances_starting(instances=placed)] == [one.pk for one in placed[1:]]
    assert placed[0].status == Status.PLACED
    assert instances_ready(instances=placed) == []


def test_leases_are_taken_together_and_only_those_that_are_free(placed):
    pks = [one.pk for one in placed]
    Instance.objects.filter(pk=pks[0]).update(lease_owner="another", lease_until=after(30))
    with held_together(Instance, pks) as owner:
        mine = Instance.objects.filter(lease_owner=owner, lease_until__isnull=False)
        assert sorted(mine.values_list("pk", flat=True)) == pks[1:]
        with held_together(Instance, pks) as other:
            assert not Instance.objects.filter(lease_owner=other).exists()
    assert list(Instance.objects.exclude(lease_until=None).values_list("pk", flat=True)) == pks[:1]


def test_all_of_it_goes_again(placed, app, world, loop):
    _start(placed, loop)
    loop.settle()
    app.replica_sets.update(wanted=0)
    loop.settle()
    nothing_held(app)
