"""Many placers at once, each with a connection of its own, on whatever database the run has."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from django.db import connection
from django.db.models import Sum

from apps.core.errors import BerthError
from apps.deployments.models import Instance, Release, ReplicaSet
from apps.deployments.services import placement
from apps.deployments.services.placement import instances_place
from apps.hosts.models import Allocation, Host, PortAllocation
from apps.tenants.models import Quota
from apps.tenants.services.tenants import tenant_create

pytestmark = pytest.mark.django_db(transaction=True)


def _sets(world, number, *, tenants=True, **release):
    """Replica sets of as many tenants: those of one would queue at their quota's row, and never meet at the host's."""
    made = []
    for index in range(number):
        tenant = (
            tenant_create(slug=f"t{index}x", name="x", plan=world.plan, owner=world.alice) if tenants else world.acme
        )
        app = world.app(f"app{index}", tenant=tenant, by=world.alice)
        values = {"memory_mb": 64, "cpu_millis": 10, **release}
        made.append(
            ReplicaSet.objects.create(
                app=app, release=Release.objects.create(app=app, number=1, version=world.push(app), **values), wanted=1
            )
        )
    return made


def _race(works):
    outcomes: Counter[str] = Counter()
    start = threading.Barrier(len(works))

    def run(work):
        try:
            start.wait()
            placed = len(work())
            outcomes["placed"] += placed
        except BerthError as error:
            outcomes[error.code] += 1
        except Exception as error:
            outcomes[repr(error)] += 1
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _place(replica_set, count=1, **values):
    return lambda: instances_place(replica_set=replica_set, count=count, **values)


def _exact():
    """What is claimed is what is there, on every host and of every quota."""
    for host in Host.objects.all():
        sums = Allocation.objects.filter(host=host).aggregate(memory=Sum("memory_mb"), cpu=Sum("cpu_millis"))
        assert (host.memory_mb_claimed, host.cpu_millis_claimed) == (sums["memory"] or 0, sums["cpu"] or 0)
        assert host.memory_mb_claimed <= host.memory_mb_capacity
        assert host.ports_held == PortAllocation.objects.filter(host=host).count()
    live = Instance.objects.filter(released=False)
    assert Allocation.objects.count() == PortAllocation.objects.count() == live.count()
    for instance in live:
        assert PortAllocation.objects.filter(host=instance.host, port=instance.port, owner=instance.uid).exists()
    assert Quota.objects.aggregate(used=Sum("instances_used"))["used"] == live.count()


def test_32_placers_racing_for_the_last_three_slots_take_exactly_those(world_committed):
    world_committed.host(memory_mb=64 * 3, port_max=20099)
    outcomes = _race([_place(one) for one in _sets(world_committed, 32)])
    assert outcomes == {"placed": 3, "placement.no_host": 29}
    _exact()


def test_placers_of_one_tenant_take_no_more_than_its_quota(world_committed):
    for _ in range(4):
        world_committed.host()
    Quota.objects.filter(tenant=world_committed.acme).update(instances=5)
    outcomes = _race([_place(one) for one in _sets(world_committed, 10, tenants=False)])
    assert outcomes == {"placed": 5, "quota.exceeded": 5}
    _exact()


def test_batches_over_the_same_hosts_wait_for_each_other_in_no_ring(world_committed):
    for _ in range(6):
        world_committed.host(memory_mb=64 * 20)
    outcomes = _race([_place(one, 12) for one in _sets(world_committed, 10)])
    assert outcomes == {"placed": 120}
    _exact()


def test_batches_that_take_what_fits_fill_the_cluster_to_the_last_slot(world_committed):
    for _ in range(4):
        world_committed.host(memory_mb=64 * 10)
    sets = _sets(world_committed, 6)
    outcomes = _race([_place(one, 9, partial=True) for one in sets])
    placed = outcomes.pop("placed")
    assert set(outcomes) <= {"placement.contended", "placement.no_host"}
    for one in sets:
        try:
            placed += len(instances_place(replica_set=one, count=40, partial=True))
        except placement.NoHost:
            break
    assert placed == 40
    _exact()


def test_one_per_host_holds_between_two_placers_of_one_release(world_committed):
    for _ in range(4):
        world_committed.host()
    (one,) = _sets(world_committed, 1, placement={"anti_affinity": "hard"})
    outcomes = _race([_place(ReplicaSet.objects.get(pk=one.pk)) for _ in range(8)])
    assert outcomes == {"placed": 4, "placement.no_host": 4}
    assert sorted(Counter(Instance.objects.values_list("host_id", flat=True)).values()) == [1, 1, 1, 1]
    _exact()


def test_a_host_cordoned_after_it_was_chosen_is_not_taken(world_committed, monkeypatch):
    first, second = world_committed.host(memory_mb=9000), world_committed.host(memory_mb=1000)
    (one,) = _sets(world_committed, 1)
    search = placement.search
    request = placement.request_of(one.release, tenant_id=one.app.tenant_id)
    stale = [search(placement.Ask(one, 1, request, {}), 1)]
    assert stale[0][0].placed[0].host_id == first.pk
    Host.objects.filter(pk=first.pk).update(availability="cordoned", generation=9)
    monkeypatch.setattr(placement, "search", lambda ask, count: stale.pop() if stale else search(ask, count))
    (instance,) = instances_place(replica_set=one, count=1)
    assert instance.host_id == second.pk
    _exact()
