"""What was deleted leaves the registry, as far as nothing else names it; whatever is pushed in between stays."""

from __future__ import annotations

import time
from datetime import timedelta

import httpx
import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.registry.api.views import _noted
from apps.registry.cleaning import repositories_clean, repository_clean
from apps.registry.describing import manifests_describe
from apps.registry.models import Manifest, Repository, Version
from apps.registry.reconcile import repositories_list
from apps.registry.services.deleting import manifest_remove, version_remove
from apps.registry.services.tokens import CLEANER
from apps.registry.services.versions import version_pushed
from apps.registry.tests.registry import OCI_INDEX, entry


def _push(shop, tag, digest, at=None, by="bob"):
    shop.tags[tag] = digest
    return version_pushed(repository="shop", tag=tag, digest=digest, media_type="", pushed_by=by, pushed_at=at or now())


def _described():
    while manifests_describe():
        pass


def _remove(*versions):
    for version in versions:
        assert version_remove(version=version, by="alice") is True


def _writes(shop):
    return [(method, path) for method, path in shop.requests if method not in ("GET", "HEAD")]


def test_a_version_goes_with_its_manifest_and_that_is_told(shop):
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    _remove(version)
    assert repositories_clean() == 1
    assert (shop.manifests, shop.tags) == ({}, {})
    assert not Manifest.objects.exists()
    version.refresh_from_db()
    assert version.deleted_at is not None
    told = Event.objects.filter(code__startswith="version.delet").order_by("pk")
    assert [(one.code, one.actor) for one in told] == [("version.deleting", "alice"), ("version.deleted", "")]
    asked = len(shop.requests)
    assert repositories_clean() == 0
    assert len(shop.requests) == asked


@pytest.mark.parametrize("deletes_tags", [False, True], ids=["2.8", "3"])
def test_a_tag_goes_alone_where_another_names_the_same(shop, deletes_tags):
    shop.deletes_tags = deletes_tags
    digest = shop.image(b"x")
    version, _ = _push(shop, "1.0", digest), _push(shop, "latest", digest)
    _described()
    _remove(version)
    repositories_clean()
    assert shop.tags == {"latest": digest}
    assert list(shop.manifests) == [digest]
    assert Version.objects.get(is_current=True).tag == "latest"
    assert Manifest.objects.get().deleting_at is None


def test_an_index_takes_along_what_only_it_names(shop):
    own, shared, tagged = (shop.image(one.encode()) for one in ("own", "shared", "tagged"))
    first = shop.index(entry(own), entry(shared), entry(tagged))
    second = shop.index(entry(shared))
    version = _push(shop, "1.0", first)
    _push(shop, "2.0", second)
    _push(shop, "arm", tagged)
    _described()
    _remove(version)
    repositories_clean()
    assert set(shop.manifests) == {shared, tagged, second}
    assert set(Manifest.objects.values_list("digest", flat=True)) == {shared, tagged, second}
    assert set(shop.tags) == {"2.0", "arm"}


def test_nothing_is_deleted_while_a_manifest_is_not_read_yet(shop):
    """It may be an index that names what would be deleted."""
    child = shop.image(b"x")
    version = _push(shop, "1.0", child)
    _described()
    _remove(version)
    _push(shop, "multi", shop.index(entry(child)))
    assert repositories_clean() == 0
    assert child in shop.manifests
    _described()
    repositories_clean()
    assert child in shop.manifests
    assert Manifest.objects.get(digest=child).deleting_at is None
    assert "1.0" not in shop.tags or repositories_clean() == 1
    assert set(shop.tags) == {"multi"}


def test_a_tag_that_was_pushed_anew_stays_and_only_the_old_image_goes(shop):
    old, new = shop.image(b"old"), shop.image(b"new")
    version = _push(shop, "1.0", old)
    _described()
    _remove(version)
    _push(shop, "1.0", new)
    _described()
    repositories_clean()
    assert shop.tags == {"1.0": new}
    assert list(shop.manifests) == [new]


def test_a_push_of_the_same_that_came_in_between_stays(shop):
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    _remove(version)
    _push(shop, "1.0", digest)
    assert repositories_clean() == 0
    assert shop.tags == {"1.0": digest}
    assert Version.objects.get().is_current


def test_a_push_while_it_is_about_to_be_deleted_keeps_it(shop):
    """Between the question which tags there are and the deletion."""
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    _remove(version)

    def push(request):
        shop.before = None
        _push(shop, "1.0", digest)

    shop.before = push
    repositories_clean()
    assert shop.tags == {"1.0": digest}
    assert _writes(shop) == []


def test_a_tag_that_nobody_told_us_of_keeps_its_manifest(shop):
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    _remove(version)
    shop.tags["copy"] = digest
    repositories_clean()
    assert shop.tags == {"copy": digest}
    repositories_list()
    assert Version.objects.get(is_current=True).tag == "copy"
    assert Manifest.objects.get().deleting_at is None
    repositories_clean()
    assert shop.tags == {"copy": digest}


def test_a_repository_with_more_tags_than_can_be_seen_loses_none(shop, monkeypatch):
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    _remove(version)
    monkeypatch.setattr("apps.registry.client.WHOLE_TAGS", 1)
    shop.tags |= {"a": digest, "b": digest}
    assert repositories_clean() == 0
    assert _writes(shop) == []


def test_what_cannot_be_deleted_is_tried_again_and_told_of(shop, settings):
    settings.DELETE_DEADLINE_S = 60
    version = _push(shop, "1.0", shop.image(b"x"))
    _described()
    _remove(version)
    shop.status = 503
    assert repositories_clean() == 0
    assert not Event.objects.filter(code="version.delete_waits").exists()
    Version.objects.update(deleting_at=now() - timedelta(seconds=61))
    repositories_clean()
    repositories_clean()
    assert Event.objects.filter(code="version.delete_waits").count() == 1
    shop.status = None
    Manifest.objects.update(deleting_at=now())
    repositories_clean()
    assert shop.manifests == {}


def test_a_registry_that_is_away_is_asked_once_in_a_sweep(shop, world):
    world.app("other")
    _remove(_push(shop, "1.0", shop.image(b"x")))
    digest = "sha256:" + "f" * 64
    other = version_pushed(repository="other", tag="1", digest=digest, media_type="", pushed_by="", pushed_at=now())
    _remove(other)

    def away(request):
        raise httpx.ConnectError("refused")

    shop.before = away
    assert repositories_clean() == 0
    assert len(shop.requests) == 1


def test_taking_a_tag_away_that_was_interrupted_is_ended(shop, token_key):
    """2.8: the tag named the empty index already, and the worker died."""
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _push(shop, "latest", digest)
    _described()
    _remove(version)

    def die(request):
        if request.method == "DELETE" and "/sha256:" in request.url.path:
            raise KeyboardInterrupt

    shop.before = die
    with pytest.raises(KeyboardInterrupt):
        repositories_clean()
    assert shop.tags["1.0"] != digest
    shop.before = None
    repositories_list()
    assert not Version.objects.filter(tag="1.0", is_current=True).exists()
    repositories_clean()
    assert shop.tags == {"latest": digest}
    assert set(shop.manifests) == {digest}


def test_the_platforms_own_pushes_make_no_versions(shop):
    event = {
        "action": "push",
        "timestamp": now().isoformat(),
        "target": {"repository": "shop", "tag": "1.0", "digest": "sha256:" + "e" * 64, "mediaType": OCI_INDEX},
        "actor": {"name": CLEANER},
    }
    _noted(event)
    assert not Version.objects.exists()
    assert not Manifest.objects.exists()


def test_what_has_no_tag_can_be_removed_by_itself(shop):
    digest = shop.image(b"x")
    version = _push(shop, "1.0", digest)
    _described()
    manifest = Manifest.objects.get()
    assert manifest_remove(manifest=manifest) is False
    Version.objects.filter(pk=version.pk).delete()
    del shop.tags["1.0"]
    assert manifest_remove(manifest=manifest) is True
    assert manifest_remove(manifest=manifest) is False
    repositories_clean()
    assert shop.manifests == {}


def test_of_a_repository_with_thousands_of_tags_versions_can_be_deleted(shop, monkeypatch):
    monkeypatch.setattr("apps.registry.client.MAX_TAGS", 3)
    versions = [_push(shop, f"1.{number}", shop.image(b"%d" % number)) for number in range(8)]
    _described()
    _remove(*versions[:7])
    assert repository_clean(Repository.objects.get(), time.monotonic()) is True, "listing them took all the time"
    assert set(shop.tags) == {"1.7"}


def test_of_more_tags_than_are_listed_in_one_go_all_are_seen_in_time(shop, monkeypatch):
    monkeypatch.setattr("apps.registry.client.MAX_TAGS", 3)
    digest = shop.image(b"x")
    shop.tags = {f"1.{number}": digest for number in range(6)}
    for _ in range(60):
        repositories_list()
    assert Version.objects.filter(is_current=True).count() == 6
