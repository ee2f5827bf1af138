"""Images on a host whose disk runs low: which go, in what order, and which never do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.models import Instance
from apps.deployments.reconcile import images, images_prune
from apps.deployments.services import retention
from apps.deployments.services.retention import rules_of, rules_set, rules_with
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.memory import Failure
from apps.hosts.models import Host
from apps.hosts.selectors import hosts_low_on_disk

GIB = 1024  # MiB


def digest(number):
    return f"{number:064x}"


def reference(number, registry="localhost:5443", repository="shop"):
    return f"{registry}/{repository}@sha256:{digest(number)}"


def says(host, idle_mb, *, ago_s=0):
    at = now() - timedelta(seconds=ago_s)
    Host.objects.filter(pk=host.pk).update(disk_mb=100 * GIB, disk_mb_idle=idle_mb, sampled_at=at)


@pytest.fixture
def app(world, loop):
    """Six releases of six images, one after the other; two can be gone back to, and the last serves."""
    world.host()
    app = world.app()
    for number in range(6):
        world.push(app, f"1.{number}", digest(number))
        deploy(app, world, instances=1, version=f"1.{number}")
        loop.settle()
    rules_set(app=app, rules=rules_with(rules_of(app), rollback_releases=2), by=world.alice)
    return app


@pytest.fixture
def host(app):
    found = Host.objects.get()
    says(found, 5 * GIB)
    return found


def stored(world, host):
    return {int(one.rpartition(":")[2], 16) for one in world.engine_of(host).pulled}


def test_images_go_that_no_release_in_the_window_and_nothing_that_runs_needs(world, loop, host):
    assert stored(world, host) == {0, 1, 2, 3, 4, 5}
    assert images_prune(host.pk, loop.clients) == 4
    assert stored(world, host) == {4, 5}
    event = Event.objects.get(code="host.images_removed")
    assert (event.host_id, event.tenant_id, event.app_id) == (host.pk, None, None)
    assert len(event.detail["images"]) == 4


def test_with_room_on_the_disk_everything_stays(world, loop, host):
    says(host, 15 * GIB)
    assert hosts_low_on_disk(15) == []
    assert images_prune(host.pk, loop.clients) == 0
    says(host, 15 * GIB - 1)
    assert hosts_low_on_disk(15) == [host.pk]
    assert images_prune(host.pk, loop.clients) == 4


def test_what_a_host_said_long_ago_or_never_moves_nothing(world, loop, host):
    says(host, 0, ago_s=600)
    assert hosts_low_on_disk(15) == []
    assert images_prune(host.pk, loop.clients) == 0
    Host.objects.update(sampled_at=None, disk_mb=None, disk_mb_idle=None)
    assert images_prune(host.pk, loop.clients) == 0


def test_the_longest_unused_go_first_and_only_until_there_is_room(world, loop, host):
    Instance.objects.filter(replica_set__release__version__tag="1.0").update(released_at=now())
    says(host, 15 * GIB - 1)
    world.engine_of(host).image_bytes = 3 * GIB * 1024 * 1024
    assert images_prune(host.pk, loop.clients) == 2
    assert stored(world, host) == {0, 3, 4, 5}


def test_so_many_go_in_one_pass_at_most(world, loop, host, monkeypatch):
    monkeypatch.setattr(images, "MOST", 3)
    assert images_prune(host.pk, loop.clients) == 3
    assert images_prune(host.pk, loop.clients) == 1


def test_what_others_brought_or_named_is_not_touched(world, loop, host):
    engine = world.engine_of(host)
    foreign = {reference(70, "registry.example.com"), reference(71, "localhost:54430"), reference(72, "localhost")}
    engine.pulled |= foreign
    engine.tagged = {"mine:1": reference(0), "debian:12": "sha256:" + digest(80)}
    images_prune(host.pk, loop.clients)
    assert engine.pulled >= foreign
    assert set(engine.tagged) == {"mine:1", "debian:12"}
    assert stored(world, host) == {0, 4, 5, 70, 71, 72}


def test_images_of_an_app_that_is_gone_go(world, loop, host):
    world.engine_of(host).pulled.add(reference(90, repository="was-once"))
    images_prune(host.pk, loop.clients)
    assert 90 not in stored(world, host)


def test_a_release_that_somebody_goes_back_to_meanwhile_keeps_its_image(world, loop, host, app, monkeypatch):
    unneeded = images._unneeded

    def gone_back(*values):
        found = unneeded(*values)
        deploy(app, world, instances=1, version="1.1")
        return found

    monkeypatch.setattr(images, "_unneeded", gone_back)
    images_prune(host.pk, loop.clients)
    assert 1 in stored(world, host)


def test_what_a_container_is_made_of_stays_whatever_the_database_says(world, loop, host, monkeypatch):
    monkeypatch.setattr(images, "needed_digests", lambda digests: set())
    images_prune(host.pk, loop.clients)
    assert stored(world, host) == {5}


def test_an_engine_that_fails_in_between_is_left_for_the_next_pass(world, loop, host):
    world.engine_of(host).fail_next("image_remove", Failure.AFTER)
    assert images_prune(host.pk, loop.clients) == 0
    assert images_prune(host.pk, loop.clients) == 3
    assert stored(world, host) == {4, 5}


def test_a_host_that_does_not_answer_is_not_asked(world, loop, host):
    Host.objects.update(status=Host.Status.DOWN)
    calls = dict(world.engine_of(host).calls)
    assert images_prune(host.pk, loop.clients) == 0
    assert world.engine_of(host).calls == calls


def test_an_image_stays_that_another_app_can_go_back_to(world, loop, host):
    other = world.app("site")
    world.push(other, "9.0", digest(0))
    deploy(other, world, instances=1, version="9.0")
    assert retention.needed_digests([f"sha256:{digest(0)}"])
    images_prune(host.pk, loop.clients)
    assert 0 in stored(world, host)
