"""Workers, broker or database were away: what ran out meanwhile has not run out, and all goes on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.duties import SWEEP, away, due
from apps.core.models import Duty
from apps.deployments.models import Gateway, Instance, Rollout
from apps.deployments.reconcile import reconcile_app, reconcile_instance
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.services.outage import deadlines_extended
from apps.deployments.services.routing import served_by_all
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.memory import NEVER_READY, RUNS
from apps.hosts.models import Host

MINUTE = timedelta(seconds=60)
Status = Instance.Status


def _swept(ago: timedelta) -> None:
    Duty.objects.update_or_create(name=SWEEP, defaults={"done_at": now() - ago})


def _sweep() -> bool:
    with due(SWEEP, every_s=1, back=deadlines_extended) as mine:
        return mine


@pytest.fixture
def waiting(app, world, hosts, loop):
    """A rollout whose instance runs and is not ready yet; all its deadlines passed while nobody was there."""
    for host in hosts:
        world.engine_of(host).default_behaviour = NEVER_READY
    rollout = deploy(app, world, instances=1)
    loop.step()
    (instance,) = Instance.objects.filter(app=app)
    assert instance.status == Status.RUNNING
    late = now() - timedelta(seconds=20)
    Rollout.objects.update(deadline_at=late)
    Instance.objects.update(deadline_at=late)
    return rollout, instance


def _look(app, instance, loop):
    reconcile_app(app.pk, loop.clients)
    reconcile_instance(instance.pk, loop.clients)
    instance.refresh_from_db()
    return instance.status


def test_what_ran_out_while_the_platform_was_away_goes_on(app, world, hosts, loop, waiting):
    rollout, instance = waiting
    _swept(MINUTE)
    assert away()
    assert _look(app, instance, loop) == Status.RUNNING, "nobody has made up for it yet"
    assert _sweep()
    assert not away()
    assert _look(app, instance, loop) == Status.RUNNING, "it has as long as it had before"
    for host in hosts:
        for container in world.engine_of(host).containers.values():
            container.behaviour = RUNS
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == Rollout.Status.SUCCEEDED


def test_without_an_outage_a_deadline_is_one(app, loop, waiting):
    rollout, instance = waiting
    _swept(timedelta(seconds=2))
    assert _look(app, instance, loop) == Status.STOPPED
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == (Rollout.Status.FAILED, "rollout.deadline")


def test_a_row_that_was_read_before_the_time_was_made_up_for_is_read_again(app, loop, waiting):
    rollout, instance = waiting
    stale = Instance.objects.get(pk=instance.pk), Rollout.objects.get(pk=rollout.pk)
    _swept(MINUTE)
    assert _sweep()
    assert [passed(one) for one in stale] == [False, False]


def test_a_time_away_is_made_up_for_once(waiting):
    rollout, _ = waiting
    _swept(MINUTE)
    rollout.refresh_from_db()
    before = rollout.deadline_at
    assert _sweep()
    rollout.refresh_from_db()
    assert MINUTE <= rollout.deadline_at - before < MINUTE + timedelta(seconds=10)
    after_one = rollout.deadline_at
    Duty.objects.update(done_at=now() - timedelta(seconds=2))
    assert _sweep()
    rollout.refresh_from_db()
    assert rollout.deadline_at == after_one


def test_gateways_that_nobody_listened_to_are_waited_for_still(db):
    Gateway.objects.create(name="gw", epoch="e", served=5, last_seen_at=now() - timedelta(seconds=70))
    _swept(timedelta(seconds=65))
    assert not served_by_all(epoch="e", zxid=9), "not heard of, but nobody was there to hear it"
    assert _sweep()
    assert not served_by_all(epoch="e", zxid=9)
    assert served_by_all(epoch="e", zxid=5)
    Gateway.objects.update(last_seen_at=now() - timedelta(seconds=70))
    assert served_by_all(epoch="e", zxid=9), "one that is gone is not waited for"


def test_hosts_that_nobody_looked_at_were_not_silent(world):
    host = world.host(last_seen_at=now() - timedelta(seconds=62))
    fresh = world.host()
    _swept(MINUTE)
    assert _sweep()
    assert now() - Host.objects.get(pk=host.pk).last_seen_at < timedelta(seconds=5)
    assert Host.objects.get(pk=fresh.pk).last_seen_at <= now()
