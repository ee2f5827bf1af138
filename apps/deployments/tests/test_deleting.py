"""Deleting apps and tenants: complete, in order, resumable, and never the wrong thing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import after, now
from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import App, Domain, Instance, Release, ReplicaSet, Rollout
from apps.deployments.reconcile import rebuild_discovery, reconcile_app, reconcile_tenant
from apps.deployments.selectors import unfinished_apps, unfinished_tenants
from apps.deployments.services.apps import AppDeleting
from apps.deployments.services.deleting import (
    AppConfirmNeeded,
    TenantConfirmNeeded,
    TenantHasApps,
    TenantHasHosts,
    app_delete,
    tenant_delete,
)
from apps.deployments.services.placement import instances_place
from apps.deployments.services.rollouts import rollout_cancel, rollout_start, undeploy
from apps.deployments.tests.steps import deploy, nothing_held
from apps.hosts.models import Host
from apps.registry.client import RegistryUnavailable
from apps.registry.models import Repository, Version
from apps.tenants.models import Membership, Quota, Tenant, User
from apps.tenants.services.deleting import TenantDeleting

ROWS = (App, Domain, Instance, Release, ReplicaSet, Rollout, Repository, Version)


def _delete(app, world):
    return app_delete(app=app, by=world.alice, confirm=app.slug)


def _gone(app):
    return not App.objects.filter(pk=app.pk).exists()


def _nothing_left(world, hosts, discovery, slug="shop"):
    assert [model.__name__ for model in ROWS if model.objects.exists()] == []
    assert slug not in discovery.nodes
    assert not any(world.engine_of(host).containers for host in hosts)


def test_deleting_an_app_leaves_nothing_but_its_events_and_its_name_is_free(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    tenant = app.tenant
    deleted = _delete(app, world)
    assert deleted.deleting_at is not None
    assert not Instance.objects.filter(status__in=Instance.LIVE).exists(), "on their way out at once"
    loop.settle()
    _nothing_left(world, hosts, discovery)
    nothing_held(app)
    told = Event.objects.filter(app_id=app.pk, code__startswith="app.").order_by("pk")
    assert list(told.values_list("code", "actor")) == [
        *(("app.created", "alice"), ("app.deleting", "alice"), ("app.deleted", "")),
    ]
    again = world.app("shop", tenant=world.rival, by=world.charlie)
    assert (again.tenant, tenant.apps.count()) == (world.rival, 0)


def test_nothing_is_withdrawn_purged_or_forgotten_before_what_comes_before_it(app, world, hosts, loop, discovery):
    """Each part in turn is away; the deletion waits there, and goes on when it is back."""
    deploy(app, world)
    loop.settle()
    discovery.automatic = False
    _delete(app, world)
    purged = []

    def purge(name):
        assert name not in discovery.nodes, "the route goes before the images"
        purged.append(name)
        raise RegistryUnavailable("away")

    loop.purge = purge
    loop.settle()
    assert discovery.nodes["shop"] == {}, "unpublished"
    assert all(len(world.engine_of(host).containers) == 1 for host in hosts), "a gateway may still send requests"
    discovery.served["gw-1"] = discovery.zxid
    for host in hosts:
        Host.objects.filter(pk=host.pk).update(status="suspect")
    loop.discovery.down = True
    loop.settle()
    assert not _gone(app)
    loop.discovery.down = False
    loop.settle()
    assert "shop" not in discovery.nodes
    assert purged
    assert not _gone(app)
    assert Repository.objects.exists(), "what is stored is still known"
    loop.purge = lambda name: ""
    loop.settle()
    _nothing_left(world, hosts, discovery)


def test_what_is_not_over_is_found_by_the_sweep_without_any_message(app, world, loop):
    _delete(app, world)
    App.objects.filter(pk=app.pk).update(route_published=100)
    assert unfinished_apps(10) == [app.pk]
    tenant_delete(tenant=world.acme, by=world.alice, confirm="acme", with_apps=True)
    assert unfinished_tenants(10) == [world.acme.pk]


def test_a_rollout_in_progress_and_what_waits_behind_it_are_superseded(app, world, hosts, loop, discovery):
    first = deploy(app, world)
    waiting = Rollout.objects.create(app=app, number=9, status="pending", deadline_at=after(600))
    _delete(app, world)
    for rollout in (first, waiting):
        rollout.refresh_from_db()
        assert (rollout.status, rollout.code) == ("superseded", "rollout.superseded")
    loop.settle()
    _nothing_left(world, hosts, discovery)


def test_instances_that_a_step_under_way_asked_for_go_too(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    _delete(app, world)
    ReplicaSet.objects.update(wanted=1, weight=100)
    instances_place(replica_set=ReplicaSet.objects.get(), count=1)
    loop.settle()
    _nothing_left(world, hosts, discovery)


@pytest.mark.parametrize("confirm", ["", "SHOP", "shop ", "acme"])
def test_without_the_apps_name_nothing_happens_but_a_word_on_what_would_go(app, world, loop, confirm):
    deploy(app, world)
    with pytest.raises(
        AppConfirmNeeded, match=r"2 instances, 1 versions, 1 releases and the names shop\.localhost"
    ) as e:
        app_delete(app=app, by=world.alice, confirm=confirm)
    assert (e.value.extra["instances"], e.value.extra["domains"]) == (2, ("shop.localhost",))
    app.refresh_from_db()
    assert app.deleting_at is None


@pytest.mark.parametrize("who", ["bob", "vera", "charlie"])
def test_only_owners_and_admins_delete_an_app(app, world, who):
    with pytest.raises(Denied):
        app_delete(app=app, by=getattr(world, who), confirm="shop")


def test_what_is_being_deleted_can_not_be_changed(app, world, loop):
    deploy(app, world)
    loop.settle()
    once = _delete(app, world).deleting_at
    for change in (
        lambda: deploy(app, world),
        lambda: undeploy(app=app, by=world.alice),
        lambda: rollout_cancel(app=app, number=1, by=world.alice),
    ):
        with pytest.raises(AppDeleting):
            change()
    assert world.push(app, tag="2.0") is None
    assert _delete(app, world).deleting_at == once, "asked again it goes on as it was"
    assert Event.objects.filter(code="app.deleting").count() == 1


def test_a_host_that_is_away_keeps_the_app_until_its_containers_there_are_removed(app, world, hosts, loop, discovery):
    deploy(app, world)
    loop.settle()
    away = hosts[0]
    engine = world.engine_of(away)
    engine.unreachable = True
    Host.objects.filter(pk=away.pk).update(status="down", last_seen_at=now() - timedelta(minutes=5))
    _delete(app, world)
    Instance.objects.filter(host=away).update(status="lost", status_since=now(), deadline_at=now())
    loop.settle()
    assert not Instance.objects.filter(released=False).exists()
    assert not _gone(app), "its rows say what is to be removed when the host is back"
    assert len(engine.containers) == 1
    engine.unreachable = False
    loop.settle()
    _nothing_left(world, hosts, discovery)


def test_a_host_that_never_comes_back_is_removed_by_an_operator_and_the_deletion_ends(app, world, hosts, loop):
    deploy(app, world)
    loop.settle()
    away = hosts[0]
    world.engine_of(away).unreachable = True
    Host.objects.filter(pk=away.pk).update(status="down", last_seen_at=now() - timedelta(minutes=5))
    _delete(app, world)
    Instance.objects.filter(host=away).update(status="lost", status_since=now(), deadline_at=now())
    loop.settle()
    assert not _gone(app)
    Host.objects.filter(pk=away.pk).update(status="removed")
    reconcile_app(app.pk, loop.clients)
    assert _gone(app)


def test_what_waits_for_long_says_for_what_and_again_later(app, world, loop, settings):
    def told():
        return list(Event.objects.filter(code="app.delete_waits").values_list("message", flat=True))

    loop.discovery.down = True
    _delete(app, world)
    loop.settle()
    assert told() == []
    App.objects.update(deleting_at=now() - timedelta(seconds=settings.DELETE_DEADLINE_S))
    loop.settle()
    assert len(told()) == 1
    assert "waits for ZooKeeper" in told()[0]
    Event.objects.filter(code="app.delete_waits").update(at=now() - timedelta(seconds=settings.DELETE_DEADLINE_S))
    loop.settle()
    assert len(told()) == 2
    loop.discovery.down = False
    loop.settle()
    assert _gone(app)


def test_an_app_without_a_route_does_not_keep_a_rebuild_from_its_end(app, world, loop, discovery):
    other = world.app("blog")
    _delete(app, world)
    loop.purge = lambda name: "the registry"
    loop.settle()
    discovery.epoch_name = ""
    assert rebuild_discovery(loop.clients) == 2
    assert discovery.epoch_name, "a new epoch has begun"
    assert set(discovery.nodes) == {other.slug}


# Tenants ------------------------------------------------------------------------------------------------------


def test_deleting_a_tenant_takes_its_apps_first_and_leaves_people_and_events(app, world, hosts, loop, discovery):
    deploy(app, world)
    world.app("blog")
    loop.settle()
    acme = world.acme.pk
    assert tenant_delete(tenant=world.acme, by=world.alice, confirm="acme", with_apps=True).deleting_at is not None
    loop.step()
    assert Tenant.objects.filter(pk=acme).exists(), "not before its apps"
    loop.settle(10)
    assert not Tenant.objects.filter(pk=acme).exists()
    _nothing_left(world, hosts, discovery)
    assert not Membership.objects.filter(tenant_id=acme).exists()
    assert not Quota.objects.filter(tenant_id=acme).exists()
    assert User.objects.filter(username__in=["alice", "bob", "vera"]).count() == 3
    told = Event.objects.filter(tenant_id=acme, code__startswith="tenant.del").order_by("pk")
    assert list(told.values_list("code", "actor")) == [("tenant.deleting", "alice"), ("tenant.deleted", "")]
    assert Event.objects.filter(app_id=app.pk, code="app.deleting", actor="alice").exists()


def test_a_tenant_with_apps_is_deleted_only_where_that_is_said(app, world, loop):
    with pytest.raises(TenantHasApps) as caught:
        tenant_delete(tenant=world.acme, by=world.alice, confirm="acme")
    assert caught.value.extra["apps"] == ["shop"]
    world.acme.refresh_from_db()
    assert world.acme.deleting_at is None, "nothing of it is begun"
    app.refresh_from_db()
    assert app.deleting_at is None
    tenant_delete(tenant=world.rival, by=world.charlie, confirm="rival")
    loop.settle()
    assert not Tenant.objects.filter(slug="rival").exists()


def test_a_tenant_with_hosts_of_its_own_is_refused_and_only_operators_learn_which(world, loop):
    host = world.host(dedicated_to=world.rival)
    with pytest.raises(TenantHasHosts) as caught:
        tenant_delete(tenant=world.rival, by=world.charlie, confirm="rival")
    assert caught.value.extra == {"count": 1}
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    with pytest.raises(TenantHasHosts) as caught:
        tenant_delete(tenant=world.rival, by=world.alice, confirm="rival")
    assert caught.value.extra["hosts"] == [host.name]
    Host.objects.update(status="removed")
    tenant_delete(tenant=world.rival, by=world.alice, confirm="rival")
    reconcile_tenant(world.rival.pk, loop.clients)
    assert not Tenant.objects.filter(slug="rival").exists()
    assert Host.objects.get().dedicated_to is None


def test_a_host_dedicated_meanwhile_delays_the_end_and_an_event_says_so(world, loop, settings):
    tenant_delete(tenant=world.rival, by=world.charlie, confirm="rival")
    host = world.host(dedicated_to=world.rival)
    Tenant.objects.filter(pk=world.rival.pk).update(deleting_at=now() - timedelta(seconds=settings.DELETE_DEADLINE_S))
    loop.settle()
    (event,) = Event.objects.filter(code="tenant.delete_waits")
    assert "1 hosts that are dedicated to it" in event.message
    Host.objects.filter(pk=host.pk).update(dedicated_to=None)
    loop.settle()
    assert not Tenant.objects.filter(slug="rival").exists()


@pytest.mark.parametrize("confirm", ["", "Acme", "shop"])
def test_without_the_tenants_name_nothing_happens(app, world, confirm):
    with pytest.raises(TenantConfirmNeeded, match="1 apps and 3 memberships"):
        tenant_delete(tenant=world.acme, by=world.alice, confirm=confirm, with_apps=True)
    world.acme.refresh_from_db()
    assert world.acme.deleting_at is None


def test_only_an_owner_or_an_operator_deletes_a_tenant(world):
    Membership.objects.filter(user=world.bob).update(role="admin")
    for who in (world.bob, world.vera, world.charlie):
        with pytest.raises(Denied):
            tenant_delete(tenant=world.acme, by=who, confirm="acme")


def test_no_app_is_made_in_a_tenant_that_is_being_deleted(app, world, loop):
    tenant_delete(tenant=world.acme, by=world.alice, confirm="acme", with_apps=True)
    with pytest.raises(TenantDeleting):
        world.app("late")


def test_an_app_that_was_not_reached_when_the_deletion_began_is_taken_along(app, world, loop):
    """The process died between the tenant and its apps."""
    Tenant.objects.filter(pk=world.acme.pk).update(deleting_at=now())
    loop.settle(10)
    assert not Tenant.objects.filter(slug="acme").exists()


def test_a_deploy_that_began_before_sees_the_deletion(app, world, loop):
    stale = App.objects.get(pk=app.pk)
    _delete(app, world)
    with pytest.raises(AppDeleting):
        rollout_start(app=stale, version="1.0", by=world.alice)
