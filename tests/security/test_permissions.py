"""Who may do what, asked of the one place that knows."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser
from guardian.models import UserObjectPermission
from guardian.shortcuts import assign_perm

from apps.deployments.selectors import apps_visible_to
from apps.deployments.services.deleting import app_delete
from apps.deployments.services.explain import explain, shown
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.services.rules import RulesInvalid
from apps.registry.services.tokens import Access, granted_to
from apps.tenants.models import Membership
from apps.tenants.permissions import Action, allows

EVERYTHING = set(Action)
WORK = {Action.VIEW, Action.PULL, Action.PUSH, Action.DEPLOY}


@pytest.mark.parametrize(
    ("who", "may"),
    [("alice", EVERYTHING), ("bob", WORK), ("vera", {Action.VIEW, Action.PULL}), ("charlie", set())],
)
def test_a_role_allows_exactly_its_actions(world, who, may):
    app = world.app()
    user = getattr(world, who)
    assert {action for action in Action if allows(user, action, app)} == may
    assert {action for action in Action if apps_visible_to(user, action).exists()} == may


def test_a_grant_allows_its_action_on_its_app_only(world):
    app, other = world.app("shop"), world.app("blog")
    assign_perm("deployments.view_app", world.charlie, app)
    assert list(apps_visible_to(world.charlie)) == [app]
    assert allows(world.charlie, Action.VIEW, app)
    assert not allows(world.charlie, Action.DEPLOY, app)
    assert not allows(world.charlie, Action.VIEW, other)


def test_nobody_and_the_disabled_see_nothing(world):
    app = world.app()
    world.alice.is_active = False
    for viewer in (AnonymousUser(), world.alice):
        assert not apps_visible_to(viewer).exists()
        assert not allows(viewer, Action.VIEW, app)


def test_a_platform_admin_is_a_stranger_to_tenants(world):
    app = world.app()
    world.charlie.is_superuser = world.charlie.is_staff = True
    world.charlie.save()
    assert not apps_visible_to(world.charlie).exists()
    assert not allows(world.charlie, Action.VIEW, app)


def test_leaving_takes_effect_at_once(world):
    app = world.app()
    Membership.objects.filter(user=world.bob).delete()
    assert not allows(world.bob, Action.VIEW, app)
    assert not apps_visible_to(world.bob).exists()


def test_a_disabled_tenant_is_nobodys(world):
    app = world.app()
    world.acme.is_active = False
    world.acme.save()
    assert not allows(world.alice, Action.VIEW, app)
    assert not apps_visible_to(world.alice).exists()


def test_a_guest_of_one_app_learns_nothing_of_the_tenants_others_nor_of_its_quota(world):
    """One who was granted an app, and is no member."""
    world.host()
    app = world.app()
    world.app("hidden")
    for permission in ("view_app", "deploy_app"):
        assign_perm(f"deployments.{permission}", world.charlie, app)
    rules = [{"affinity": [slug]} for slug in ("hidden", "missing")]
    answers = []
    for placement in rules:
        with pytest.raises(RulesInvalid) as caught:
            explain(app, viewer=world.charlie, placement=placement)
        answers.append(caught.value.detail.replace(placement["affinity"][0], "X"))
    world.push(app)
    for placement in rules:
        with pytest.raises(RulesInvalid) as caught:
            rollout_start(app=app, version="1.0", by=world.charlie, settings_=ReleaseSettings(placement=placement))
        answers.append(caught.value.detail.replace(placement["affinity"][0], "X"))
    assert len(set(answers)) == 1
    assert explain(app, viewer=world.alice, placement=rules[0]).refused == {"does not run hidden": 1}
    plain = explain(app, viewer=world.alice).plain()
    assert shown(plain, app=app, viewer=world.charlie)["quota"]["left"] == {}
    assert shown(plain, app=app, viewer=world.vera)["quota"]["left"] == plain["quota"]["left"] != {}


def test_grants_on_an_app_end_with_it(world, loop):
    app, other = world.app("shop"), world.app("blog")
    for one in (app, other):
        assign_perm("deployments.view_app", world.charlie, one)
    app_delete(app=app, by=world.alice, confirm="shop")
    assert list(apps_visible_to(world.charlie)) == [other, app], "reading goes on until it is gone"
    loop.settle()
    assert list(apps_visible_to(world.charlie)) == [other]
    assert UserObjectPermission.objects.get().object_pk == str(other.pk)


@pytest.mark.parametrize(
    ("permissions", "granted"),
    [
        (["view_app"], set()),
        (["deploy_app"], set()),
        (["pull_app"], {"pull"}),
        # The registry asks for pull wherever something is written.
        (["push_app"], {"pull", "push"}),
        (["manage_app"], {"delete"}),
        (["pull_app", "push_app", "manage_app"], {"pull", "push", "delete"}),
    ],
)
def test_a_grant_on_an_app_reaches_its_repository_and_no_other(world, permissions, granted):
    app = world.app("shop")
    world.app("blog")
    for one in permissions:
        assign_perm(f"deployments.{one}", world.charlie, app)
    asked = [Access(name, ("pull", "push", "delete")) for name in ("shop", "blog")]
    assert {one.name: set(one.actions) for one in granted_to(world.charlie, asked)} == (
        {"shop": granted} if granted else {}
    )
    world.acme.is_active = False
    world.acme.save()
    assert granted_to(world.charlie, asked) == []
