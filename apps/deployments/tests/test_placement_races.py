"""Many placers at once, each with a connection of its own, on whatever database the run has."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Sum

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.deployments.models import Instance, Release, ReplicaSet
from apps.deployments.services import placement
from apps.deployments.services.instances import instance_released
from apps.deployments.services.placement import PlacementContended, instances_place
from apps.deployments.services.routing import QUARANTINES_AT_ONCE, quarantines_end
from apps.deployments.services.scaling import app_scale
from apps.hosts.models import Allocation, Host, PortAllocation
from apps.hosts.services.hosts import cluster_changed
from apps.tenants.models import Quota
from apps.tenants.services.tenants import tenant_create
from stack.journey import wait_for

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


def _in_thread(work, outcomes, name, wrapper=None):
    def run():
        try:
            if wrapper is None:
                outcomes[name] = work()
            else:
                with connection.execute_wrapper(wrapper):
                    outcomes[name] = work()
        except Exception as error:
            outcomes[name] = repr(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_guessed_port_that_is_just_freed_makes_no_ring(world_committed, monkeypatch):
    """The placer holds the host and wants the port; whoever frees that port wants the host."""
    world_committed.host()
    first, second = _sets(world_committed, 2)
    (one,) = instances_place(replica_set=first, count=1)
    low = Host.objects.get().port_min
    monkeypatch.setattr(placement, "crc32", lambda _: one.port - low)
    held, freeing = threading.Event(), threading.Event()

    def placer(execute, sql, params, many, context):
        if sql.startswith('INSERT INTO "hosts_portallocation"'):
            held.set()
            # Until the other has gone as far as it gets: on SQLite, nowhere.
            freeing.wait(1)
        return execute(sql, params, many, context)

    def freer(execute, sql, params, many, context):
        if sql.startswith('UPDATE "hosts_'):
            freeing.set()
            held.wait(1)
        return execute(sql, params, many, context)

    outcomes = {}
    instance = Instance.objects.select_related("app").get(pk=one.pk)
    threads = [
        _in_thread(lambda: len(instances_place(replica_set=second, count=1)), outcomes, "placed", placer),
        _in_thread(lambda: instance_released(instance=instance), outcomes, "released", freer),
    ]
    for thread in threads:
        thread.join()
    assert outcomes == {"placed": 1, "released": True}


def test_a_scaling_and_an_instance_that_ends_wait_for_each_other_in_no_ring(world_committed):
    """The scaling holds the set and wants the quota; the ending wants both."""
    world_committed.host()
    (one,) = _sets(world_committed, 1, tenants=False)
    ReplicaSet.objects.update(weight=100)
    (instance,) = instances_place(replica_set=one, count=1)
    instance = Instance.objects.select_related("app").get(pk=instance.pk)
    scaled, counted = threading.Event(), threading.Event()

    def scaler(execute, sql, params, many, context):
        done = execute(sql, params, many, context)
        if sql.startswith('UPDATE "deployments_replicaset"'):
            scaled.set()
            # Until the other has gone as far as it gets: on SQLite, nowhere.
            counted.wait(1)
        return done

    def ending(execute, sql, params, many, context):
        done = execute(sql, params, many, context)
        if sql.startswith('UPDATE "tenants_quota"'):
            counted.set()
            scaled.wait(1)
        return done

    outcomes = {}
    threads = [
        _in_thread(
            lambda: app_scale(app=one.app, instances=3, by=world_committed.alice).slug, outcomes, "scaled", scaler
        ),
        _in_thread(lambda: instance_released(instance=instance), outcomes, "released", ending),
    ]
    for thread in threads:
        thread.join()
    assert outcomes == {"scaled": one.app.slug, "released": True}
    assert Quota.objects.get(tenant=world_committed.acme).instances_used == Allocation.objects.count() == 2


def test_a_cluster_whose_ratios_change_and_a_batch_make_no_ring(world_committed):
    hosts = [world_committed.host() for _ in range(3)]
    # Now the first stands last in the table, and an update of all would begin with the second.
    Host.objects.filter(pk=hosts[0].pk).update(memory_mb_claimed=1)
    (replica_set,) = _sets(world_committed, 1)
    held, go = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            Host.objects.select_for_update(no_key=True).get(pk=hosts[2].pk)
            held.set()
            return go.wait(5)

    asked: list[str] = []

    def note(name):
        def wrapper(execute, sql, params, many, context):
            if "hosts_host" in sql and ("FOR NO KEY UPDATE" in sql or sql.startswith("UPDATE")):
                asked.append(name)
            return execute(sql, params, many, context)

        return wrapper

    outcomes = {}
    threads = [_in_thread(hold, outcomes, "held")]
    assert held.wait(5)
    works = {
        "changed": lambda: cluster_changed(cluster=world_committed.cluster),
        "placed": lambda: len(instances_place(replica_set=replica_set, count=3)),
    }
    for name, work in works.items():
        threads.append(_in_thread(work, outcomes, name, note(name)))
        if connection.vendor == "postgresql":
            # SQLite lets nobody in while somebody writes.
            wait_for(name, lambda name=name: name in asked, 5, 0.01)
    go.set()
    for thread in threads:
        thread.join()
    assert outcomes == {"held": True, "changed": None, "placed": 3}


def test_more_ports_end_their_quarantine_than_a_statement_takes_values(world_committed):
    host = world_committed.host(ports_held=QUARANTINES_AT_ONCE + 5)
    PortAllocation.objects.bulk_create(
        PortAllocation(host=host, port=port, owner=uuid4(), status="quarantined", freed_at=now())
        for port in range(20000, 20000 + QUARANTINES_AT_ONCE + 5)
    )
    assert quarantines_end(epoch="any") == QUARANTINES_AT_ONCE
    assert quarantines_end(epoch="any") == 5
    assert Host.objects.get().ports_held == 0


def test_strangers_do_not_get_in_where_a_host_is_dedicated_between_search_and_write(world_committed, monkeypatch):
    host = world_committed.host()
    one, many = _sets(world_committed, 2)
    search = placement.search

    def late(ask, count):
        found = search(ask, count)
        Host.objects.filter(pk=host.pk).update(dedicated_to=world_committed.rival)
        return found

    monkeypatch.setattr(placement, "search", late)
    for replica_set, count in ((one, 1), (many, 2)):
        Host.objects.update(dedicated_to=None)
        # What ``late`` does is rolled back with each attempt, so that every one of them meets it.
        with pytest.raises(PlacementContended):
            instances_place(replica_set=replica_set, count=count)
    assert not Instance.objects.exists()


def test_batches_that_race_for_what_is_left_end_exactly_full_and_are_told_no_host(world_committed):
    """Room for 24 of 16 x 4: nobody is sent away as contended while there is room, and nobody gets too much."""
    for _ in range(6):
        world_committed.host(memory_mb=64 * 4)
    sets = _sets(world_committed, 16)
    outcomes = _race([partial(instances_place, replica_set=one, count=4) for one in sets])
    assert outcomes == {"placed": 24, "placement.no_host": 10}
    assert Instance.objects.count() == 24
