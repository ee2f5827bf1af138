"""Deploy on push: what matches is deployed once, the newest wins, and whatever speaks against it ends in an event."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import App, Rollout
from apps.deployments.services import rollouts
from apps.deployments.services.deleting import app_close
from apps.deployments.services.placement import PlacementContended
from apps.deployments.services.pushes import (
    CONTENDED_S,
    LATE_S,
    READ_S,
    TOLD_S,
    PatternInvalid,
    apps_pushed_to,
    deploy_on_push_set,
    pushed_deploy,
    pushes_find,
)
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start, undeploy
from apps.registry.models import Manifest, Repository, Version
from apps.registry.services.versions import repository_listed, version_pushed
from apps.tenants.models import Membership, Role


def _digest(letter):
    return "sha256:" + letter * 64


@pytest.fixture
def app(world, loop):
    """Version 1.0 runs twice, with settings of its own; v* is deployed on push."""
    world.host()
    app = world.app("shop")
    world.push(app, "1.0")
    settings = ReleaseSettings(secrets={"KEY": "x"}, memory_mb=64)
    rollout_start(app=app, version="1.0", by=world.alice, instances=2, settings_=settings)
    loop.settle()
    return deploy_on_push_set(app=app, pattern="v*", by=world.bob)


def _push(tag, letter, *, at=None, by="carla", read=True):
    version = version_pushed(
        repository="shop", tag=tag, digest=_digest(letter), media_type="", pushed_by=by, pushed_at=at or now()
    )
    if read:
        Manifest.objects.filter(kind="unknown").update(kind="image", described_at=now())
    return version


def _since_long(seconds):
    """It was switched on so long ago, and 1.0 pushed before that."""
    App.objects.update(pushes_seen_at=now() - timedelta(seconds=seconds))
    Version.objects.filter(tag="1.0").update(current_since=now() - timedelta(seconds=seconds + 1))


def _codes(app):
    return list(
        Event.objects.filter(app_id=app.pk, code__startswith="push.").order_by("pk").values_list("code", "actor")
    )


def test_a_matching_tag_becomes_a_release_with_the_settings_of_the_present_one_and_a_rollout(app):
    _push("v2", "b")
    rollout = pushed_deploy(slug="shop")
    assert (rollout.created_by, rollout.instances) == ("deploy on push (pushed by carla)", 2)
    release = rollout.target.release
    assert (release.version.tag, release.memory_mb, release.env) == ("v2", 64, {"KEY": "x"})
    assert release.created_by == "deploy on push (pushed by carla)"
    assert _codes(app)[-1] == ("push.deployed", "deploy on push (pushed by carla)")
    assert pushed_deploy(slug="shop") is None
    assert app.rollouts.count() == 2


@pytest.mark.parametrize(("tag", "pattern"), [("1.1", "v*"), ("v2", "")])
def test_what_does_not_match_and_what_is_switched_off_deploys_nothing(app, world, tag, pattern):
    deploy_on_push_set(app=app, pattern=pattern, by=world.bob)
    _push(tag, "b")
    assert pushed_deploy(slug="shop") is None
    assert app.rollouts.count() == 1
    Version.objects.filter(tag=tag).update(current_since=now() - timedelta(seconds=TOLD_S))
    _since_long(2 * TOLD_S)
    assert pushed_deploy(slug="shop") is None
    assert not apps_pushed_to().exists(), "and is not looked at again"


def test_what_was_pushed_before_it_was_switched_on_is_not_deployed(app, world):
    deploy_on_push_set(app=app, pattern="", by=world.bob)
    _push("v2", "b")
    deploy_on_push_set(app=app, pattern="v*", by=world.bob)
    assert pushed_deploy(slug="shop") is None


def test_of_several_the_newest_wins_and_an_older_push_noticed_later_does_not_go_backwards(app):
    at = now()
    _push("v3", "c", at=at)
    _push("v2", "b", at=at - timedelta(seconds=1))
    assert pushed_deploy(slug="shop").target.release.version.tag == "v3"
    _push("v1", "d", at=at - timedelta(milliseconds=500))
    assert pushed_deploy(slug="shop") is None
    assert app.rollouts.count() == 2


def test_pushing_the_same_again_deploys_nothing_and_going_back_to_it_does(app, loop):
    _push("v", "b")
    assert pushed_deploy(slug="shop") is not None
    _push("v", "b")
    assert pushed_deploy(slug="shop") is None
    loop.settle(20)
    _push("v", "c")
    assert pushed_deploy(slug="shop") is not None
    loop.settle(20)
    _push("v", "b")
    assert pushed_deploy(slug="shop").target.release.version.digest == _digest("b")


def test_what_waits_is_superseded_and_what_is_under_way_goes_on(app):
    for number, letter in enumerate("bcd", start=2):
        _push(f"v{number}", letter)
        assert pushed_deploy(slug="shop") is not None
    found = list(app.rollouts.order_by("number").values_list("status", flat=True))
    assert found == ["succeeded", "progressing", "superseded", "pending"]


def test_what_was_not_read_yet_is_waited_for_but_not_for_ever(app):
    _push("v2", "b", read=False)
    assert pushed_deploy(slug="shop") is None
    assert apps_pushed_to().exists()
    App.objects.update(pushes_seen_at=now() - timedelta(seconds=2 * READ_S))
    Version.objects.filter(tag="v2").update(current_since=now() - timedelta(seconds=READ_S))
    assert pushed_deploy(slug="shop") is not None


def test_what_only_a_listing_found_waits_for_its_own_notification_which_may_be_older(app):
    early = now()
    time_of_newer = early + timedelta(milliseconds=1)
    _push("v3", "c", at=time_of_newer)
    assert pushed_deploy(slug="shop") is not None
    repository = Version.objects.first().repository
    tags = {"1.0": _digest("a"), "v3": _digest("c"), "v2": _digest("b")}
    repository_listed(repository=repository, tags=tags, asked_at=now())
    Manifest.objects.update(kind="image")
    assert pushed_deploy(slug="shop") is None
    _push("v2", "b", at=early)
    assert pushed_deploy(slug="shop") is None
    assert not apps_pushed_to().exists()


def test_of_those_that_one_listing_found_the_highest_number_is_deployed_after_a_while(app):
    repository = Version.objects.first().repository
    tags = {"1.0": _digest("a"), "v10": _digest("b"), "v9": _digest("c")}
    at = now() - timedelta(seconds=LATE_S + 1)
    App.objects.update(pushes_seen_at=at - timedelta(seconds=1))
    repository_listed(repository=repository, tags=tags, asked_at=at)
    Manifest.objects.update(kind="image")
    rollout = pushed_deploy(slug="shop")
    assert (rollout.target.release.version.tag, rollout.created_by) == ("v10", "deploy on push")


def test_a_lost_nudge_is_found_by_the_sweep(app, nudges, django_capture_on_commit_callbacks):
    _push("v2", "b")
    with django_capture_on_commit_callbacks(execute=True):
        pushes_find(100)
    assert ("deployments.deploy_pushed", ("shop",)) in nudges


def test_a_push_nudges(app, nudges, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        _push("v2", "b")
    assert ("deployments.deploy_pushed", ("shop",)) in nudges


@pytest.mark.parametrize("how", ["role", "left", "disabled", "deleted"])
def test_it_stops_when_whoever_switched_it_on_may_not_deploy_any_more(app, world, how):
    if how == "role":
        Membership.objects.filter(user=world.bob).update(role=Role.VIEWER)
    if how == "left":
        Membership.objects.filter(user=world.bob).delete()
    if how == "disabled":
        type(world.bob).objects.filter(pk=world.bob.pk).update(is_active=False)
    if how == "deleted":
        world.bob.delete()
    _push("v2", "b")
    assert pushed_deploy(slug="shop") is None
    app.refresh_from_db()
    assert (app.deploy_on_push, app.deploy_on_push_by) == ("", None)
    assert _codes(app)[-1][0] == "push.stopped"
    assert app.rollouts.count() == 1


def test_a_refusal_is_told_once_and_not_tried_again(app):
    version = _push("v2", "b")
    Manifest.objects.filter(digest=version.digest).update(kind="artifact")
    assert pushed_deploy(slug="shop") is None
    assert pushed_deploy(slug="shop") is None
    told = Event.objects.get(app_id=app.pk, code="push.refused")
    assert (told.detail["cause"], told.detail["tag"]) == ("versions.not_an_image", "v2")
    assert app.rollouts.count() == 1
    assert app.releases.count() == 1


def test_an_app_that_runs_nothing_is_not_started_by_a_push(app, world, loop):
    undeploy(app=app, by=world.alice)
    loop.settle()
    _push("v2", "b")
    assert pushed_deploy(slug="shop") is None
    assert Event.objects.get(app_id=app.pk, code="push.refused").detail["cause"] == "apps.not_deployed"
    fresh = world.app("fresh")
    deploy_on_push_set(app=fresh, pattern="*", by=world.bob)
    world.push(fresh, "1")
    Manifest.objects.update(kind="image")
    assert pushed_deploy(slug="fresh") is None
    assert _codes(fresh)[-1][0] == "push.refused"


def test_nothing_is_deployed_of_an_app_that_goes(app):
    _push("v2", "b")
    app_close(app_id=app.pk, by="alice")
    assert pushed_deploy(slug="shop") is None
    assert not Rollout.objects.filter(status="progressing").exists()


def test_only_who_may_deploy_switches_it(app, world):
    with pytest.raises(Denied):
        deploy_on_push_set(app=app, pattern="*", by=world.vera)
    before = Event.objects.count()
    seen = App.objects.get().pushes_seen_at
    deploy_on_push_set(app=App.objects.get(), pattern="v*", by=world.bob)
    assert (Event.objects.count(), App.objects.get().pushes_seen_at) == (before, seen), "the same again is nothing"


@pytest.mark.parametrize("pattern", ["a b", "v[0-9]", "../x", "v*\n", "x" * 129, "é", "{a,b}"])
def test_a_pattern_that_is_none_is_refused(app, world, pattern):
    with pytest.raises(PatternInvalid):
        deploy_on_push_set(app=app, pattern=pattern, by=world.bob)


def test_tags_that_are_back_after_the_registry_showed_none_for_a_moment_deploy_nothing(app, world, loop):
    for tag, letter in (("v1", "b"), ("v2", "c")):
        _push(tag, letter)
        pushed_deploy(slug="shop")
        loop.settle()
    rollout_start(app=app, version="v1", by=world.alice)
    loop.settle()
    repository = Repository.objects.get(name="shop")
    tags = {"1.0": Version.objects.get(tag="1.0").digest, "v1": _digest("b"), "v2": _digest("c")}
    before = app.rollouts.count()
    repository_listed(repository=repository, tags={}, asked_at=now())
    repository_listed(repository=repository, tags=tags, asked_at=now())
    assert Version.objects.filter(is_current=True).count() == 3
    assert pushed_deploy(slug="shop") is None
    assert app.rollouts.count() == before
    # Another image under a tag is news, and so is a push of the same by somebody.
    repository_listed(repository=repository, tags={}, asked_at=now())
    _push("v2", "c")
    assert pushed_deploy(slug="shop") is not None


def test_a_push_that_is_told_after_a_later_one_that_does_not_match_is_deployed(app):
    at = now()
    _since_long(20)
    _push("latest", "c", at=at)
    assert pushed_deploy(slug="shop") is None
    _push("v2", "b", at=at - timedelta(seconds=5))
    assert pushed_deploy(slug="shop").target.release.version.tag == "v2"
    _push("other", "e", at=at + timedelta(milliseconds=2))
    pushed_deploy(slug="shop")
    _push("v3", "d", at=at - timedelta(seconds=2))
    assert pushed_deploy(slug="shop").target.release.version.tag == "v3"


def test_where_others_place_at_the_same_time_it_is_tried_again_for_a_while(app, monkeypatch):
    def contended(**values):
        raise PlacementContended("Again.")

    version = _push("v2", "b")
    with monkeypatch.context() as patched:
        patched.setattr(rollouts, "rollout_begin", contended)
        assert pushed_deploy(slug="shop") is None
    assert ("push.refused", "deploy on push (pushed by carla)") not in _codes(app)
    assert not Event.objects.filter(code="rollout.refused").exists()
    _since_long(2 * CONTENDED_S)
    with monkeypatch.context() as patched:
        patched.setattr(rollouts, "rollout_begin", contended)
        Version.objects.filter(pk=version.pk).update(current_since=now() - timedelta(seconds=CONTENDED_S))
        assert pushed_deploy(slug="shop") is None
    assert ("push.refused", "deploy on push (pushed by carla)") in _codes(app)
    assert not apps_pushed_to().exists()
