"""A version that something runs or is about to run can't be deleted; one that was is not to be had any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.errors import Denied
from apps.deployments.services.apps import AppDeleting
from apps.deployments.services.deleting import app_close
from apps.deployments.services.rollouts import VersionDeleted, rollback_start, rollout_start, undeploy
from apps.deployments.services.strategies import Options
from apps.deployments.services.versions import VersionInUse, uses_of, version_delete, version_drop
from apps.registry.models import Manifest, Part, Version
from apps.registry.selectors import VersionMissing
from apps.registry.services.deleting import manifest_remove
from apps.registry.services.versions import repository_listed, version_pushed


@pytest.fixture
def app(world):
    world.host()
    return world.app("shop")


def _push_again(version, at):
    return version_pushed(
        repository="shop", tag=version.tag, digest=version.digest, media_type="", pushed_by="bob", pushed_at=at
    )


def test_what_runs_is_refused_with_the_list_of_its_users(world, app, loop):
    version = world.push(app)
    rollout_start(app=app, version="1.0", by=world.bob, instances=2)
    loop.settle()
    with pytest.raises(VersionInUse) as refused:
        version_delete(app=app, version=version, by=world.alice)
    assert refused.value.extra["users"] == [
        {"app": "shop", "release": 1, "instances": 2, "reasons": ["instances", "traffic"]}
    ]
    assert "shop release 1 (2 instances" in refused.value.detail
    assert not Version.objects.exclude(deleting_at=None).exists()


def test_the_old_version_of_a_rollout_that_is_under_way_and_one_that_waits_are_refused(world, app, loop):
    old = world.push(app, "1.0", "a" * 64)
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle()
    coming = world.push(app, "2.0", "b" * 64)
    waiting = world.push(app, "3.0", "c" * 64)
    rollout_start(app=app, version="2.0", by=world.bob, options=Options(judge_s=0))
    rollout_start(app=app, version="3.0", by=world.bob, options=Options(judge_s=0))
    for version in (old, coming, waiting):
        with pytest.raises(VersionInUse):
            version_drop(app=app, version=version)
    assert uses_of([waiting.pk])[waiting.pk][0].reasons == ("rollout",)
    loop.settle(20)
    assert version_drop(app=app, version=old) is True
    assert version_drop(app=app, version=coming) is True


def test_what_blue_green_keeps_for_a_switch_back_is_refused(world, app, loop):
    old = world.push(app, "1.0", "a" * 64)
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle()
    world.push(app, "2.0", "b" * 64)
    options = Options(strategy="blue_green", keep_s=3600, judge_s=0)
    rollout_start(app=app, version="2.0", by=world.bob, options=options)
    loop.settle(10)
    assert app.rollouts.get(number=2).phase == "keeping"
    with pytest.raises(VersionInUse):
        version_drop(app=app, version=old)


def test_only_who_manages_the_app_deletes_and_nothing_of_an_app_that_goes(world, app):
    version = world.push(app)
    for who in (world.bob, world.vera, world.charlie):
        with pytest.raises(Denied):
            version_delete(app=app, version=version, by=who)
    app_close(app_id=app.pk, by="alice")
    with pytest.raises(AppDeleting):
        version_delete(app=app, version=version, by=world.alice)


def test_a_deleted_version_is_not_deployed_and_not_gone_back_to(world, app, loop):
    old = world.push(app, "1.0", "a" * 64)
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle()
    undeploy(app=app, by=world.bob)
    loop.settle()
    assert version_delete(app=app, version=old, by=world.alice).deleting_at is not None
    with pytest.raises(VersionMissing):
        rollout_start(app=app, version="1.0", by=world.bob)
    with pytest.raises(VersionDeleted):
        rollback_start(app=app, release=1, by=world.bob)
    assert version_drop(app=app, version=old) is False, "again does no harm"


def test_the_manifest_goes_with_the_last_version_that_names_it(world, app):
    first, second = world.push(app, "1.0"), world.push(app, "latest")
    manifest = Manifest.objects.get()
    version_drop(app=app, version=first)
    manifest.refresh_from_db()
    assert manifest.deleting_at is None
    version_drop(app=app, version=second)
    manifest.refresh_from_db()
    assert manifest.deleting_at is not None


def test_a_manifest_that_an_index_names_stays_until_the_index_goes(world, app):
    version = world.push(app, "1.0", "a" * 64)
    index = world.push(app, "multi", "b" * 64)
    manifest = Manifest.objects.get(digest=version.digest)
    of = Manifest.objects.get(digest=index.digest)
    Part.objects.create(manifest=of, digest=version.digest, kind=Part.Kind.MANIFEST, size_bytes=1)
    version_drop(app=app, version=version)
    assert manifest_remove(manifest=manifest) is False
    version_drop(app=app, version=index)
    assert manifest_remove(manifest=manifest) is True


def test_a_tag_that_is_pushed_again_after_its_deletion_is_back(world, app):
    version = world.push(app)
    version_drop(app=app, version=version)
    _push_again(version, now())
    version.refresh_from_db()
    manifest = Manifest.objects.get()
    assert (version.is_current, version.deleting_at, manifest.deleting_at) == (True, None, None)


def test_a_repeated_or_older_word_of_a_push_does_not_undo_a_deletion(world, app):
    version = world.push(app)
    version_drop(app=app, version=version)
    _push_again(version, version.pushed_at)
    version_pushed(
        repository="shop",
        tag="1.0",
        digest="sha256:" + "b" * 64,
        media_type="",
        pushed_by="",
        pushed_at=version.pushed_at - timedelta(seconds=1),
    )
    version.refresh_from_db()
    assert version.deleting_at is not None
    assert not Version.objects.filter(is_current=True).exists()


def test_a_listing_that_still_has_the_tag_does_not_undo_a_deletion(world, app):
    version = world.push(app)
    version_drop(app=app, version=version)
    repository_listed(repository=version.repository, tags={"1.0": version.digest}, asked_at=now())
    asked = now()
    Version.objects.update(deleted_at=now())
    repository_listed(repository=version.repository, tags={"1.0": version.digest}, asked_at=asked)
    version.refresh_from_db()
    assert version.deleting_at is not None
    repository_listed(repository=version.repository, tags={"1.0": version.digest}, asked_at=now())
    version.refresh_from_db()
    assert (version.is_current, version.deleting_at, version.deleted_at) == (True, None, None)
