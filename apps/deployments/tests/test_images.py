"""An image is refused where no host could run it, and goes only where one can; unread ones may be anything."""

from __future__ import annotations

import pytest

from apps.deployments.models import Instance
from apps.deployments.services.images import NotAnImage, WrongPlatform, known
from apps.deployments.services.placement import NoHost
from apps.deployments.services.rollouts import rollback_start, rollout_start, undeploy
from apps.hosts.engines.base import EngineInfo
from apps.hosts.engines.docker_parse import info
from apps.registry.models import Manifest, Part

AMD = {"os": "linux", "architecture": "amd64", "variant": ""}
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


@pytest.fixture
def app(world):
    return world.app("shop")


def _host(world, architecture="", **values):
    host = world.host(os="linux" if architecture else "", architecture=architecture, **values)
    its = {"os": host.os, "architecture": host.architecture}
    world.engine_of(host).info = EngineInfo("24.0.7", 4000, 8192, **its)
    return host


def _read(version, *platforms, kind="image"):
    Manifest.objects.filter(digest=version.digest).update(kind=kind, platforms=list(platforms))
    known.cache_clear()


def test_an_image_for_a_platform_that_no_host_has_is_refused_before_anything_is_made(world, app):
    _host(world, "amd64")
    _read(world.push(app), ARM)
    with pytest.raises(WrongPlatform) as refused:
        rollout_start(app=app, version="1.0", by=world.bob)
    assert refused.value.extra == {"platforms": ["linux/arm64"], "hosts": ["linux/amd64"]}
    assert "--platform linux/amd64" in refused.value.detail
    assert not app.releases.exists()
    assert not Instance.objects.exists()


def test_an_artifact_is_refused(world, app):
    _host(world, "amd64")
    _read(world.push(app), kind="artifact")
    with pytest.raises(NotAnImage):
        rollout_start(app=app, version="1.0", by=world.bob)


def test_a_rollback_is_asked_the_same(world, app, loop):
    host = _host(world, "arm64")
    _read(world.push(app), ARM)
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle()
    undeploy(app=app, by=world.bob)
    loop.settle()
    type(host).objects.update(architecture="amd64")
    with pytest.raises(WrongPlatform):
        rollback_start(app=app, release=1, by=world.bob)


def test_another_tenants_own_host_is_none_that_could_run_it(world, app):
    _host(world, "amd64")
    _host(world, "arm64", dedicated_to=world.rival)
    _read(world.push(app), ARM)
    with pytest.raises(WrongPlatform):
        rollout_start(app=app, version="1.0", by=world.bob)


def test_in_a_mixed_cluster_it_goes_only_to_hosts_of_its_platform(world, app, loop):
    for architecture in ("amd64", "amd64", "arm64", "amd64"):
        _host(world, architecture)
    _read(world.push(app), ARM)
    rollout_start(app=app, version="1.0", by=world.bob, instances=3)
    loop.settle()
    placed = Instance.objects.values_list("host__architecture", "status")
    assert list(placed) == [("arm64", "healthy")] * 3


def test_an_index_goes_to_any_of_its_platforms(world, app):
    for architecture in ("amd64", "arm64", "riscv64"):
        _host(world, architecture, memory_mb=300)
    _read(world.push(app), ARM, AMD, kind="index")
    rollout_start(app=app, version="1.0", by=world.bob, instances=2)
    assert set(Instance.objects.values_list("host__architecture", flat=True)) == {"amd64", "arm64"}


def test_where_only_other_hosts_have_room_that_is_the_reason(world, app):
    _host(world, "arm64", memory_mb=100)
    _host(world, "amd64")
    _read(world.push(app), ARM)
    with pytest.raises(NoHost) as refused:
        rollout_start(app=app, version="1.0", by=world.bob)
    assert refused.value.extra["refused"] == {"not enough memory": 1, "the image is for another platform": 1}


@pytest.mark.parametrize(("image", "host"), [("386", "amd64"), ("arm", "arm64")])
def test_an_older_platform_runs_on_its_successor(world, app, image, host):
    _host(world, host)
    _read(world.push(app), {"os": "linux", "architecture": image, "variant": ""})
    assert rollout_start(app=app, version="1.0", by=world.bob).status == "progressing"


def test_what_is_not_known_of_image_or_host_refuses_nothing(world, app, loop):
    _host(world)
    version = world.push(app)
    _read(version, ARM)
    rollout_start(app=app, version="1.0", by=world.bob)
    Manifest.objects.update(kind="unknown", platforms=[])
    known.cache_clear()
    type(world.host()).objects.update(os="linux", architecture="amd64")
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle(10)
    assert set(Instance.objects.filter(released=False).values_list("status", flat=True)) == {"healthy"}


def test_an_index_of_which_an_image_was_not_read_yet_is_not_known(world, app):
    _host(world, "arm64")
    version = world.push(app)
    _read(version, AMD, kind="index")
    index = Manifest.objects.get()
    child = Manifest.objects.create(repository=index.repository, digest="sha256:" + "c" * 64, pushed_at=index.pushed_at)
    Part.objects.create(manifest=index, digest=child.digest, kind=Part.Kind.MANIFEST, size_bytes=1)
    assert rollout_start(app=app, version="1.0", by=world.bob).status == "progressing"


@pytest.mark.parametrize(("kind", "code"), [("image", "image.other_platform"), ("artifact", "image.not_an_image")])
def test_what_turns_out_after_it_was_placed_ends_the_rollout_without_a_container(world, app, loop, kind, code):
    host = _host(world, "amd64")
    version = world.push(app)
    rollout = rollout_start(app=app, version="1.0", by=world.bob)
    _read(version, ARM, kind=kind)
    loop.settle(10)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.code) == ("failed", code)
    assert world.engine_of(host).calls["ensure"] == 0
    assert Instance.objects.count() == 1, "and is not tried again"


def test_a_host_says_its_platform_when_it_is_looked_at(world, loop):
    host = world.host()
    world.engine_of(host).info = EngineInfo("24.0.7", 4000, 8192, os="linux", architecture="arm64")
    loop.step()
    host.refresh_from_db()
    assert (host.os, host.architecture) == ("linux", "arm64")


@pytest.mark.parametrize(
    ("said", "meant"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm"), ("s390x", "s390x"), (None, "")]
)
def test_the_engines_name_of_an_architecture_becomes_that_of_images(said, meant):
    found = info({"OSType": "linux", "Architecture": said})
    assert (found.os, found.architecture) == ("linux", meant)
