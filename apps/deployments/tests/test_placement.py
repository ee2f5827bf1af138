"""Placement and its transaction, on whatever database the run has."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from django.db import connection

from apps.core.errors import BerthError
from apps.deployments.models import App, Instance, Release, ReplicaSet, Rollout
from apps.deployments.services.placement import NoHost, instances_place
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.services.strategies import Options
from apps.hosts.models import Allocation, PortAllocation
from apps.tenants.services.tenants import QuotaExceeded

BLUE_GREEN = Options(strategy="blue_green")


def _replica_set(world, **values):
    app = world.app()
    version = world.push(app)
    release = Release.objects.create(app=app, number=1, version=version, **values)
    return ReplicaSet.objects.create(app=app, release=release, wanted=1)


def _empty():
    return not Allocation.objects.exists() and not PortAllocation.objects.exists() and not Instance.objects.exists()


def test_no_room_names_every_reason_and_holds_nothing(world):
    world.host(availability="cordoned")
    world.host(memory_mb=64)
    world.host(cpu_millis=10)
    world.host(port_min=20000, port_max=20000)
    replica_set = _replica_set(world, memory_mb=128, cpu_millis=100)
    with pytest.raises(NoHost) as caught:
        instances_place(replica_set=replica_set, count=2)
    assert caught.value.extra["refused"] == {
        "cordoned": 1, "not enough memory": 1, "not enough CPU": 1, "no free port": 1,
    }  # fmt: skip
    assert _empty()
    world.acme.quota.refresh_from_db()
    assert world.acme.quota.instances_used == 0


def test_over_quota_is_refused_with_what_is_left_and_holds_nothing(world):
    world.host()
    world.acme.quota.memory_mb = 200
    world.acme.quota.save()
    with pytest.raises(QuotaExceeded) as caught:
        instances_place(replica_set=_replica_set(world, memory_mb=128), count=2)
    assert caught.value.extra["left"]["memory_mb"] == 200
    assert _empty()


@pytest.mark.parametrize("short", ["quota", "host", "version", "port"])
def test_a_refused_deploy_leaves_an_event_and_nothing_else(world, short):
    app = world.app()
    world.push(app)
    if short == "quota":
        world.acme.quota.instances = 0
        world.acme.quota.save()
    if short != "host":
        world.host(port_min=20000, port_max=20000 if short == "port" else 20009)
    version = "nope" if short == "version" else "1.0"
    codes = {
        "quota": "quota.exceeded",
        "host": "placement.no_host",
        "version": "versions.not_found",
        "port": "placement.no_host",
    }
    with pytest.raises(BerthError) as caught:
        rollout_start(app=app, version=version, by=world.alice, instances=2, settings_=ReleaseSettings())
    assert caught.value.code == codes[short]
    from apps.core.models import Event

    event = Event.objects.get(code="rollout.refused")
    assert (event.detail["cause"], event.actor, event.app_id) == (codes[short], "alice", app.pk)
    assert _empty()
    assert not Release.objects.exists()
    assert not Rollout.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_deploys_at_once_one_waits_behind_the_other(transactional_db, world_committed):
    world = world_committed
    world.host()
    app = world.app()
    world.push(app)
    start = threading.Barrier(2)
    outcomes: Counter[str] = Counter()

    def deploy():
        try:
            start.wait()
            rollout_start(app=App.objects.get(pk=app.pk), version="1.0", by=world.alice, instances=1)
            outcomes["started"] += 1
        except BerthError as error:
            outcomes[error.code] += 1
        finally:
            connection.close()

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"started": 2}
    assert sorted(Rollout.objects.values_list("number", "status")) == [(1, "progressing"), (2, "pending")]
    assert Instance.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_deploy_and_a_replacement_of_one_app_at_once_wait_for_each_other_in_no_ring(
    transactional_db, world_committed, monkeypatch
):
    from apps.deployments.services import placement, rollouts

    world = world_committed
    world.host()
    app = world.app()
    version = world.push(app)
    release = Release.objects.create(app=app, number=1, version=version, memory_mb=64, cpu_millis=10)
    running = ReplicaSet.objects.create(app=app, release=release, wanted=2, weight=100)
    locked_now, quota_held = threading.Event(), threading.Event()
    replacing = threading.local()
    lock, claim = rollouts.app_locked, placement.quota_claim
    errors: list[str] = []

    def lock_then_wait(pk):
        locked = lock(pk)
        locked_now.set()
        quota_held.wait(2)
        return locked

    def claim_then_wait(**values):
        claim(**values)
        if getattr(replacing, "now", False):
            quota_held.set()
            locked_now.wait(2)

    monkeypatch.setattr(rollouts, "app_locked", lock_then_wait)
    monkeypatch.setattr(placement, "quota_claim", claim_then_wait)

    def deploy():
        rollout_start(app=App.objects.get(pk=app.pk), version="1.0", by=world.alice, instances=1, options=BLUE_GREEN)

    def replace():
        replacing.now = True
        locked_now.wait(2)
        instances_place(replica_set=ReplicaSet.objects.get(pk=running.pk), count=1)

    def guarded(work):
        try:
            work()
        except Exception as error:
            errors.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (deploy, replace)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Instance.objects.count() == 2
