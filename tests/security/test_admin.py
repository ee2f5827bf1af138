"""The Django admin: for staff only, every page opens, and no secret is on any."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.urls import reverse

from apps.core import throttle
from apps.core.clock import now
from apps.core.duties import due
from apps.hosts.models import Host
from apps.tenants.services.tokens import token_create


@pytest.fixture
def staff(world, client):
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    client.force_login(world.alice)
    return client


@pytest.fixture
def rows(world, loop):
    """At least one row of every model."""
    from apps.deployments.models import AcmeAccount, Certificate, Challenge, GatewayPort, Retention
    from apps.deployments.services.domains import domain_add, former_note
    from apps.deployments.services.policies import person_set
    from apps.deployments.services.releases import ReleaseSettings
    from apps.deployments.services.rollouts import rollout_start
    from apps.hosts.services.authority import authority
    from apps.hosts.services.joining import join_token_create
    from apps.registry.selectors import repository_named
    from apps.registry.services.external import external_create
    from apps.registry.services.imports import import_begin
    from apps.registry.services.keys import key_prepare
    from apps.registry.services.robots import robot_create
    from apps.registry.services.sign_in import refresh_token_create, sign_in
    from apps.registry.services.uploads import upload_begin

    join_token_create(cluster=world.cluster, by=world.alice)
    authority()
    world.host(tls_ca="CA", tls_certificate="CERT", tls_key="PRIVATE-KEY-TEXT")
    app = world.app()
    world.push(app)
    repository = repository_named(app.slug)
    assert repository is not None
    upload_begin(repository=repository, tag="2.0", by=world.alice, declared=None, spool=uuid4())
    external_create(
        tenant=world.acme, name="there", host="r.example", username="u", password="PASSWORD-TEXT", by=world.alice
    )
    import_begin(
        repository=repository,
        source="r.example/a:1",
        tag="",
        by=world.alice,
        deploy_with={"secrets": {"K": "ENV-VALUE-TEXT"}},
    )
    _token, secret = token_create(user=world.alice, name="ci")
    robot_create(tenant=world.acme, by=world.alice, name="ci")
    refresh_token_create(signed_in=sign_in(name="alice", secret=secret, address="10.0.0.1"), client="docker")
    throttle.failed(throttle.Attempt("registry", "alice", "10.0.0.1"))
    key_prepare()
    Retention.objects.create(app=app)
    domain_add(app=app, name="www.example.com", by=world.alice)
    former_note("old.example.com", world.acme.pk)
    person_set(app=app, name="visitor", password="PASSWORD-TEXT", by=world.alice)
    GatewayPort.objects.create(port=20001, owner=app.pk, tenant_id=app.tenant_id)
    held = Certificate.objects.create(
        tenant=world.acme,
        source="uploaded",
        status="ready",
        status_since=now(),
        key="PRIVATE-KEY-TEXT",
        order={"key": "PRIVATE-KEY-TEXT"},
    )
    Challenge.objects.create(certificate=held, app=app, token="token", answer="answer", route=1)
    AcmeAccount.objects.create(directory="https://ca.example.com/", key="PRIVATE-KEY-TEXT")
    rollout_start(
        app=app, version="1.0", by=world.alice, instances=1, settings_=ReleaseSettings(env={"K": "ENV-VALUE-TEXT"})
    )
    loop.settle()
    with due("sweep", every_s=1):
        return app


OURS = [model for model in admin.site._registry if model.__module__.startswith("apps.")]


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_every_list_and_detail_page_opens_for_staff_and_shows_no_secret(staff, rows, model):
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    pages = [staff.get(reverse(f"{name}_changelist")), staff.get(reverse(f"{name}_changelist"), {"q": "x"})]
    row = model._default_manager.first()
    assert row is not None, f"the fixture makes no {model._meta.label}"
    pages.append(staff.get(reverse(f"{name}_change", args=[row.pk])))
    for page in pages:
        assert page.status_code == 200
        for secret in (b"PRIVATE-KEY-TEXT", b"ENV-VALUE-TEXT", b"PASSWORD-TEXT", b"BEGIN PRIVATE KEY"):
            assert secret not in page.content


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_members_and_strangers_get_no_admin_page(world, client, model):
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    assert client.get(url).status_code == 302
    client.force_login(world.alice)
    assert client.get(url).status_code == 302
    assert "/admin/login/" in client.get(url)["Location"]


def _form(world):
    return {
        "cluster": world.cluster.pk,
        "name": "metal-1",
        "address": "10.0.0.5",
        "engine_url": "https://10.0.0.5:2376",
        "tls_ca": "CA",
        "tls_certificate": "CERT",
        "tls_key": "KEY",
        "labels": "{}",
        "memory_mb": 1024,
        "cpu_millis": 1000,
        "port_min": 20000,
        "port_max": 20999,
        "memory_mb_reserve": 0,
        "cpu_millis_reserve": 0,
        "availability": "active",
    }


def test_a_host_is_added_and_changed_by_hand_and_an_empty_key_keeps_the_stored_one(staff, world):
    form = _form(world)
    assert staff.post(reverse("admin:hosts_host_add"), form).status_code == 302
    host = Host.objects.get(name="metal-1")
    change = reverse("admin:hosts_host_change", args=[host.pk])
    assert staff.post(change, {**form, "tls_key": "", "availability": "cordoned"}).status_code == 302
    host.refresh_from_db()
    assert (host.tls_key, host.availability) == ("KEY", "cordoned")


@pytest.mark.parametrize(
    "bad",
    [
        {"engine_url": "http://10.0.0.5:2375"},
        {"engine_url": "tcp://x"},
        {"tls_key": ""},
        {"name": "Bad Name"},
        {"address": "host.example"},
        {"port_min": 30000, "port_max": 20000},
        {"port_min": 80},
        {"memory_mb": 0},
    ],
)
def test_a_bad_host_is_refused_in_the_form(staff, world, bad):
    form = {**_form(world), **bad}
    reply = staff.post(reverse("admin:hosts_host_add"), form)
    assert reply.status_code == 200
    assert b"errornote" in reply.content or b"error" in reply.content
    assert not Host.objects.exists()


def test_the_key_stands_encrypted_in_the_database(world):
    from django.db import connection

    host = world.host(tls_key="PRIVATE-KEY-TEXT")
    with connection.cursor() as cursor:
        cursor.execute("SELECT tls_key FROM hosts_host WHERE id = %s", [host.pk])
        (stored,) = cursor.fetchone()
    assert "PRIVATE" not in stored
    assert Host.objects.get(pk=host.pk).tls_key == "PRIVATE-KEY-TEXT"


def test_saving_a_host_changes_what_was_typed_and_not_what_the_loop_wrote_meanwhile(staff, world, monkeypatch):
    host = world.host(tls_ca="CA", tls_certificate="CERT", tls_key="KEY", engine_url="https://10.0.0.5:2376")
    form = {**_form(world), "name": host.name, "address": host.address, "memory_mb": 2048, "availability": "cordoned"}
    from apps.hosts import admin as hosts_admin

    real = hosts_admin.save_changed

    def late(obj, form, change):
        Host.objects.filter(pk=host.pk).update(memory_mb_claimed=256, generation=7)
        real(obj, form, change)

    monkeypatch.setattr(hosts_admin, "save_changed", late)
    assert staff.post(reverse("admin:hosts_host_change", args=[host.pk]), form).status_code == 302
    host.refresh_from_db()
    assert (host.memory_mb, host.availability, host.memory_mb_claimed, host.generation) == (2048, "cordoned", 256, 8)


def _delete_tenant(client, tenant, **values):
    data = {"action": "delete_tenant", "_selected_action": [tenant.pk], **values}
    return client.post(reverse("admin:tenants_tenant_changelist"), data)


def test_a_tenant_is_deleted_only_after_its_name_was_typed(staff, world):
    world.app()
    asked = _delete_tenant(staff, world.acme)
    assert asked.status_code == 200
    assert b"shop" in asked.content
    world.acme.refresh_from_db()
    assert world.acme.deleting_at is None
    for values, word in (({"confirm": "Acme"}, b"Give the tenant"), ({"confirm": "acme"}, b"has 1 apps")):
        refused = _delete_tenant(staff, world.acme, confirmed="yes", **values)
        assert word in refused.content
    world.acme.refresh_from_db()
    assert world.acme.deleting_at is None
    done = _delete_tenant(staff, world.acme, confirmed="yes", confirm="acme", with_apps="yes")
    assert done.status_code == 302
    world.acme.refresh_from_db()
    assert world.acme.deleting_at is not None


def test_a_tenants_row_can_not_be_deleted_past_that_nor_by_staff_without_the_permission(staff, world):
    assert staff.post(reverse("admin:tenants_tenant_delete", args=[world.acme.pk]), {"post": "yes"}).status_code == 403
    world.alice.is_superuser = False
    world.alice.save()
    world.alice.user_permissions.add(Permission.objects.get(codename="view_tenant"))
    assert b"Delete with all" not in staff.get(reverse("admin:tenants_tenant_changelist")).content
    _delete_tenant(staff, world.rival, confirmed="yes", confirm="rival")
    world.rival.refresh_from_db()
    assert world.rival.deleting_at is None
