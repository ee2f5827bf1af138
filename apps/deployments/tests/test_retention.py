"""An app's clean-up: what its rules take and leave, tried first, and what is looked at again before anything goes."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import Retention
from apps.deployments.services import retention
from apps.deployments.services.deleting import app_close
from apps.deployments.services.retention import (
    RetentionInvalid,
    app_clean,
    apps_clean,
    candidates_of,
    clean_now,
    needed_digests,
    preview,
    rules_of,
    rules_set,
    rules_with,
)
from apps.deployments.tests.steps import deploy
from apps.registry.models import Manifest, Part, Repository, Version
from apps.registry.services.deleting import manifest_remove
from apps.registry.services.manifests import manifest_pushed
from apps.registry.services.versions import repository_listed


def digest(number):
    return f"{number:064x}"


def rules(app, world, **values):
    rules_set(app=app, rules=rules_with(rules_of(app), is_on=True, **values), by=world.alice)


def push(app, world, number, tag="", days=10.0):
    """So many days ago."""
    version = world.push(app, tag or f"2.{number}", digest(number))
    at = now() - timedelta(days=days)
    Version.objects.filter(pk=version.pk).update(pushed_at=at)
    Manifest.objects.filter(repository__name=app.slug, digest=f"sha256:{digest(number)}").update(pushed_at=at)
    return version


def left(app):
    return set(Version.objects.filter(repository__name=app.slug, deleting_at=None).values_list("tag", flat=True))


def going_manifests():
    return {int(one[7:], 16) for one in Manifest.objects.exclude(deleting_at=None).values_list("digest", flat=True)}


@pytest.fixture
def app(world):
    world.host()
    return world.app()


def test_without_rules_no_tag_goes(world, app):
    for number in range(30):
        push(app, world, number)
    assert app_clean(app=app) == 0
    assert len(left(app)) == 30


def test_what_the_rules_do_not_keep_is_deleted_and_its_manifest_with_it(world, app):
    for number in range(10):
        push(app, world, number, days=20 - number)
    rules(app, world, keep_last=2)
    assert app_clean(app=app) == 8
    assert left(app) == {"2.8", "2.9"}
    assert going_manifests() == set(range(8))
    event = Event.objects.get(code="retention.applied")
    assert (event.app_id, event.detail["versions"]) == (app.pk, 8)


def test_what_runs_and_what_can_be_gone_back_to_stays_and_what_is_beyond_the_window_goes(world, app, loop):
    for number in range(5):
        push(app, world, number, days=20 - number)
    for number in range(4):
        deploy(app, world, instances=1, version=f"2.{number}")
        loop.settle()
    rules(app, world, keep_last=1, rollback_releases=2)
    app_clean(app=app)
    assert left(app) == {"2.2", "2.3", "2.4"}
    # What serves stays, whatever the window says of it.
    rules(app, world, keep_last=1, rollback_releases=1)
    app_clean(app=app)
    assert left(app) == {"2.3", "2.4"}


def test_what_somebody_deploys_while_the_clean_up_is_under_way_stays(world, app, monkeypatch):
    for number in range(3):
        push(app, world, number, days=20 - number)
    rules(app, world, keep_last=1)
    judge = retention.judged

    def deployed_meanwhile(*values, **named):
        found = judge(*values, **named)
        deploy(app, world, instances=1, version="2.0")
        return found

    monkeypatch.setattr(retention, "judged", deployed_meanwhile)
    assert app_clean(app=app) == 1
    assert left(app) == {"2.0", "2.2"}


def test_what_a_tag_named_before_goes_a_day_after_it_was_replaced_also_without_rules(world, app):
    push(app, world, 1, "main", days=10)
    push(app, world, 2, "main", days=0.5)
    app_clean(app=app)
    assert going_manifests() == set(), "it was replaced half a day ago"
    Version.objects.filter(is_current=True).update(pushed_at=now() - timedelta(days=1.5))
    app_clean(app=app)
    assert going_manifests() == {1}
    assert Version.objects.get(deleting_at=None).digest == f"sha256:{digest(2)}"


def test_what_no_tag_and_no_index_names_goes_after_a_day(world, app):
    repository = Repository.objects.get()
    for number, days in ((1, 2), (2, 0.5), (3, 2), (4, 2)):
        Manifest.objects.create(
            repository=repository, digest=f"sha256:{digest(number)}", pushed_at=now() - timedelta(days=days)
        )
    push(app, world, 4)
    index = Manifest.objects.get(digest=f"sha256:{digest(4)}")
    Part.objects.create(manifest=index, digest=f"sha256:{digest(3)}", kind=Part.Kind.MANIFEST, size_bytes=1)
    assert preview(app=app).untagged == 1
    app_clean(app=app)
    assert going_manifests() == {1}


def test_a_preview_says_what_would_go_and_changes_nothing(world, app):
    for number in range(4):
        push(app, world, number, days=20 - number)
        row = Manifest.objects.get(digest=f"sha256:{digest(number)}")
        Manifest.objects.filter(pk=row.pk).update(own_bytes=10)
        for blob, size in ((100, 1000), (200 + number, 5)):
            Part.objects.create(manifest=row, digest=f"sha256:{digest(blob)}", kind=Part.Kind.LAYER, size_bytes=size)
    found = preview(app=app, rules=rules_with(rules_of(app), is_on=True, keep_last=1))
    assert [one.version.tag for one in found.going] == ["2.2", "2.1", "2.0"]
    assert found.freed_bytes == 3 * (10 + 5), "the layer that all share stays"
    assert len(left(app)) == 4
    assert not Retention.objects.exists()


def test_members_who_manage_set_the_rules_and_clean_up_and_no_others(world, app):
    push(app, world, 1)
    for who in (world.bob, world.vera, world.charlie):
        with pytest.raises(Denied):
            rules_set(app=app, rules=rules_with(rules_of(app), is_on=True), by=who)
        with pytest.raises(Denied):
            clean_now(app=app, by=who)
    rules(app, world, keep_last=3, keep_tags="v*, stable", keep_days=4)
    assert Retention.objects.get().updated_by == "alice"
    assert rules_of(app).keep_tags == ("v*", "stable")
    assert clean_now(app=app, by=world.alice) == 0


def test_a_change_of_the_rules_is_told_once(world, app):
    for _ in range(2):
        rules(app, world, keep_last=3)
    assert Event.objects.filter(code="retention.changed").count() == 1


@pytest.mark.parametrize(
    "values", [{"keep_last": 0}, {"keep_last": 1001}, {"keep_days": -1}, {"rollback_releases": 0}, {"keep_tags": "a/b"}]
)
def test_rules_that_can_not_be_are_refused(values):
    with pytest.raises(RetentionInvalid):
        rules_with(retention.Rules(), **values)


def test_each_app_is_cleaned_once_a_day_and_one_that_is_being_deleted_is_left_alone(world, app):
    other = world.app("site")
    push(app, world, 1, "main", days=9)
    push(app, world, 2, "main", days=8)
    push(other, world, 3, "main", days=9)
    push(other, world, 4, "main", days=8)
    app_close(app_id=other.pk, by="alice")
    assert apps_clean(limit=100, budget_s=60) == 1
    assert going_manifests() == {1}
    assert apps_clean(limit=100, budget_s=60) == 0
    Repository.objects.update(cleaned_at=now() - timedelta(days=1, seconds=1))
    assert apps_clean(limit=100, budget_s=60) == 1


def test_hosts_need_the_images_of_releases_that_can_be_gone_back_to_and_of_what_is_in_use(world, app, loop):
    for number in range(4):
        push(app, world, number, days=20 - number)
        deploy(app, world, instances=1, version=f"2.{number}")
        loop.settle()
    digests = [f"sha256:{digest(number)}" for number in range(5)]
    assert needed_digests(digests) == set(digests[:4])
    rules(app, world, rollback_releases=1)
    assert needed_digests(digests) == {digests[3]}


def test_a_tag_that_was_pushed_ten_thousand_times_is_judged_in_a_moment(world, app):
    last = push(app, world, 1, "main", days=0)
    at = last.pushed_at - timedelta(days=30)
    Version.objects.bulk_create(
        Version(
            repository=last.repository,
            tag="main",
            digest=f"sha256:{digest(number)}",
            pushed_at=at + timedelta(minutes=number),
            is_current=False,
            deleting_at=at if number == 3 else None,
        )
        for number in range(2, 10_000)
    )
    began = time.monotonic()
    found = {one.digest: one for one in candidates_of(app)}
    assert time.monotonic() - began < 2
    assert len(found) == 9998
    assert found[f"sha256:{digest(1)}"].replaced_at is None
    # By the next push, also where that one is deleted by now.
    assert found[f"sha256:{digest(2)}"].replaced_at == at + timedelta(minutes=3)
    assert found[f"sha256:{digest(9999)}"].replaced_at == Version.objects.get(is_current=True).pushed_at


def test_tags_that_the_registry_does_not_show_for_a_moment_keep_their_versions_for_a_day(world, app):
    for number in range(3):
        push(app, world, number)
    repository = Repository.objects.get(name=app.slug)
    repository_listed(repository=repository, tags={}, asked_at=now())
    assert not Version.objects.filter(is_current=True).exists(), "its disk was not there"
    assert app_clean(app=app) == 0
    assert len(left(app)) == 3
    assert app_clean(app=app, at=now() + timedelta(days=1, minutes=1)) == 3


def test_what_is_pushed_again_while_the_rules_are_applied_stays(world, app, monkeypatch):
    for number in range(4):
        push(app, world, number, days=20 - number)
    rules(app, world, keep_last=1)
    real = retention.version_drop

    def pushed_meanwhile(**values):
        world.push(app, values["version"].tag, values["version"].digest[7:]) if values["version"].tag == "2.1" else None
        return real(**values)

    monkeypatch.setattr(retention, "version_drop", pushed_meanwhile)
    assert app_clean(app=app) == 2
    assert left(app) == {"2.1", "2.3"}


def test_an_untagged_image_that_is_pushed_again_while_the_rules_are_applied_stays(world, app):
    version = push(app, world, 1)
    Version.objects.filter(pk=version.pk).delete()
    manifest = Manifest.objects.get()
    manifest_pushed(repository=app.slug, digest=manifest.digest, media_type="", pushed_by="bob", pushed_at=now())
    assert manifest_remove(manifest=manifest) is False, "as it was looked at, it may go no more"
    assert going_manifests() == set()


def test_of_more_than_go_at_once_the_rest_goes_with_the_next_sweep(world, app, monkeypatch):
    monkeypatch.setattr(retention, "MOST", 3)
    for number in range(8):
        push(app, world, number, days=20 - number)
    rules(app, world, keep_last=1)
    found = []
    for _ in range(4):
        apps_clean(limit=10, budget_s=10)
        found.append(len(left(app)))
    assert found == [5, 2, 1, 1]
    assert Repository.objects.get(name=app.slug).cleaned_at is not None
