"""Cancel: at every point before the traffic moves, and the old version serves on."""

from __future__ import annotations

import pytest

from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import Instance, ReplicaSet, Rollout
from apps.deployments.selectors import RolloutMissing
from apps.deployments.services.rollouts import (
    RolloutNotOpen,
    RolloutSwitched,
    rollout_cancel,
    undeploy,
)
from apps.deployments.tests.steps import deploy, nothing_held
from apps.hosts.engines.memory import NEVER_READY

Status = Instance.Status


@pytest.fixture
def hosts(world):
    return [world.host() for _ in range(2)]


def _cancel(app, world, number):
    return rollout_cancel(app=app, number=number, by=world.bob)


def _serving(app, loop):
    return {version for version, _ in loop.discovery.nodes[app.slug]}


@pytest.mark.parametrize("steps", range(6))
def test_after_any_number_of_steps_a_cancelled_rollout_leaves_the_old_version_and_nothing_of_its_own(
    app, world, hosts, loop, steps
):
    deploy(app, world)
    loop.settle()
    target = world.push(app, tag="2.0", digest="b" * 64).digest
    for host in hosts:
        world.engine_of(host).images[target] = NEVER_READY
    rollout = deploy(app, world, version="2.0")
    for _ in range(steps):
        loop.step()
        assert _serving(app, loop) == {"1.0"}
    cancelled = _cancel(app, world, rollout.number)
    assert (cancelled.status, cancelled.code, cancelled.ended_at is not None) == (
        *("cancelled", "rollout.cancelled"),
        True,
    )
    loop.settle()
    assert _serving(app, loop) == {"1.0"}
    assert not rollout.target.instances.filter(released=False).exists()
    old = ReplicaSet.objects.exclude(pk=rollout.target_id).get()
    assert (old.wanted, old.weight) == (2, 100)
    assert old.instances.filter(status=Status.HEALTHY).count() == 2
    app.tenant.quota.refresh_from_db()
    assert app.tenant.quota.instances_used == 2
    event = Event.objects.get(code="rollout.cancelled")
    assert (event.actor, event.app_id) == ("bob", app.pk)
    assert deploy(app, world, version="1.0").number == rollout.number + 1, "the way is free"


def test_the_first_rollout_of_all_leaves_nothing(app, world, hosts, loop):
    rollout = deploy(app, world)
    loop.step()
    _cancel(app, world, rollout.number)
    loop.settle()
    nothing_held(app)
    assert loop.discovery.nodes[app.slug] == {}


def test_what_has_ended_moved_its_traffic_or_takes_the_app_down_can_not_be_cancelled(app, world, hosts, loop):
    rollout = deploy(app, world)
    loop.settle()
    with pytest.raises(RolloutNotOpen, match="succeeded"):
        _cancel(app, world, rollout.number)
    Rollout.objects.update(status="progressing")
    with pytest.raises(RolloutSwitched, match="is through"):
        _cancel(app, world, rollout.number)
    Rollout.objects.update(status="succeeded")
    down = undeploy(app=app, by=world.bob)
    with pytest.raises(RolloutSwitched, match="taken down"):
        _cancel(app, world, down.number)
    with pytest.raises(RolloutMissing):
        _cancel(app, world, 99)
    assert not Event.objects.filter(code="rollout.cancelled").exists()


def test_only_who_may_deploy_may_cancel(app, world, hosts):
    rollout = deploy(app, world)
    for who in (world.vera, world.charlie):
        with pytest.raises(Denied):
            rollout_cancel(app=app, number=rollout.number, by=who)
    rollout.refresh_from_db()
    assert rollout.status == "progressing"
