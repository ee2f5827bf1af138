"""Notifications and listings, in any order and of any number, come to the same manifests and versions."""

from __future__ import annotations

import random
from datetime import timedelta

import httpx
import pytest

from apps.core.clock import now
from apps.registry.api.views import _noted
from apps.registry.content import OCI_INDEX, OCI_MANIFEST
from apps.registry.models import Manifest, Repository, Version
from apps.registry.reconcile import repositories_list
from apps.registry.selectors import digests_of, repositories_to_list


def _event(digest, tag="", action="push", at=None, media_type=OCI_MANIFEST, by="bob"):
    target = {"repository": "shop", "digest": digest, "mediaType": media_type} | ({"tag": tag} if tag else {})
    return {"action": action, "timestamp": (at or now()).isoformat(), "target": target, "actor": {"name": by}}


def _digest(letter):
    return "sha256:" + letter * 64


def test_each_pushed_manifest_is_noted_once_with_a_tag_or_without_in_any_order(shop):
    start = now() - timedelta(seconds=20)
    events = [
        _event(_digest("a"), at=start),
        _event(_digest("b"), at=start + timedelta(seconds=1), media_type=OCI_INDEX),
        _event(_digest("b"), "multi", at=start + timedelta(seconds=1), media_type=OCI_INDEX),
        _event(_digest("c"), "1.0", at=start + timedelta(seconds=2)),
        _event(_digest("d"), "1.0", at=start + timedelta(seconds=3)),
    ]
    random.Random(3).shuffle(events)
    for event in [*events, *events]:
        _noted(event)
    assert sorted(Manifest.objects.values_list("digest", flat=True)) == [_digest(one) for one in "abcd"]
    current = dict(Version.objects.filter(is_current=True).values_list("tag", "digest"))
    assert current == {"multi": _digest("b"), "1.0": _digest("d")}
    assert digests_of("shop") == [_digest(one) for one in "abcd"]


def test_blobs_are_no_manifests(shop):
    _noted(_event(_digest("a"), media_type="application/octet-stream"))
    assert not Manifest.objects.exists()


@pytest.mark.parametrize("digest", ["", "x", "sha256:zz", "sha512:" + "a" * 128, None])
def test_a_manifest_without_a_digest_is_none(shop, digest):
    _noted(_event(digest))
    assert not Manifest.objects.exists()


def test_that_something_was_deleted_is_looked_into_and_not_believed(shop, nudges, django_capture_on_commit_callbacks):
    digest = shop.image(b"x", tag="1.0")
    _noted(_event(digest, "1.0"))
    Manifest.objects.update(described_at=now())
    with django_capture_on_commit_callbacks(execute=True):
        _noted(_event(digest, action="delete"))
    manifest = Manifest.objects.get()
    assert manifest.described_at is None
    assert ("registry.describe", (manifest.pk,)) in nudges


def test_a_new_manifest_is_nudged_once(shop, nudges, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(3):
            _noted(_event(_digest("a"), "1.0"))
    assert [name for name, _ in nudges].count("registry.describe") == 1


def test_a_listing_makes_what_no_notification_told_and_a_late_one_says_who(shop):
    digest = shop.image(b"x", tag="1.0")
    at = now() - timedelta(seconds=30)
    assert repositories_list() == 1
    version = Version.objects.get()
    assert (version.digest, version.pushed_by) == (digest, "")
    assert Manifest.objects.get().digest == digest
    _noted(_event(digest, "1.0", at=at))
    version.refresh_from_db()
    assert (version.pushed_by, version.is_current) == ("bob", True)
    assert Version.objects.count() == 1


def test_a_listing_notes_the_manifest_of_a_version_from_before_there_were_any(shop):
    digest = shop.image(b"x", tag="1.0")
    _noted(_event(digest, "1.0"))
    before = Version.objects.get()
    Manifest.objects.all().delete()
    repositories_list()
    assert Manifest.objects.get().digest == digest
    assert Version.objects.get().pushed_at == before.pushed_at


def test_a_listing_of_what_is_known_writes_no_version(shop, django_assert_max_num_queries):
    for number in range(20):
        digest = shop.image(str(number).encode(), tag=f"1.{number}")
        _noted(_event(digest, f"1.{number}", at=now() - timedelta(seconds=5)))
    with django_assert_max_num_queries(12):
        assert repositories_list() == 1


def test_a_manifest_whose_tag_vanished_is_read_anew(shop):
    digest = shop.image(b"x", tag="1.0")
    _noted(_event(digest, "1.0", at=now() - timedelta(seconds=5)))
    Manifest.objects.update(described_at=now())
    del shop.tags["1.0"]
    repositories_list()
    assert not Version.objects.filter(is_current=True).exists()
    assert Manifest.objects.get().described_at is None


def test_what_may_have_been_pushed_to_is_listed_first(world, shop):
    for name in ("quiet", "busy", "newest"):
        world.app(name)
    at = now()
    rows = Repository.objects
    rows.filter(name="shop").update(listed_at=at - timedelta(seconds=30), tokens_until=at - timedelta(seconds=60))
    rows.filter(name="quiet").update(listed_at=at - timedelta(seconds=90))
    rows.filter(name="busy").update(listed_at=at - timedelta(seconds=2), tokens_until=at + timedelta(seconds=60))
    assert [one.name for one in repositories_to_list(10)] == ["newest", "busy", "quiet", "shop"]


def test_a_registry_that_was_away_is_listed_at_once_when_it_is_back(shop):
    def away(request):
        raise httpx.ConnectError("refused")

    shop.image(b"x", tag="1.0")
    shop.before = away
    assert repositories_list() == 0
    assert Repository.objects.get().listed_at is None
    shop.before = None
    assert repositories_list() == 1


def test_one_that_cannot_be_listed_keeps_no_other(world, shop):
    """The others' answers are 404s here: they hold nothing."""
    for number in range(20):
        world.acme.quota.__class__.objects.update(apps=100)
        world.app(f"app-{number}")

    def odd(request):
        if request.url.path.startswith("/v2/shop/"):
            raise httpx.ReadTimeout("slow")

    shop.before = odd
    assert repositories_list() == 20
    assert Repository.objects.filter(listed_at=None).count() == 0
