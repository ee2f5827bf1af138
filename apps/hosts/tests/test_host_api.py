"""Hosts over HTTP: for operators, for machines, and for nobody else."""

from __future__ import annotations

import subprocess

import pytest
from django.contrib.auth.models import Permission
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse
from rest_framework.test import APIClient

from apps.core.models import Event
from apps.hosts.models import Allocation, Authority, Host, JoinToken
from apps.hosts.services.joining import join_token_create
from apps.hosts.services.onboarding import join_script
from apps.hosts.tests.machine import facts, sample
from apps.tenants.services.tokens import token_create


@pytest.fixture(autouse=True)
def apart(settings):
    """No registry's authority of the run's environment."""
    settings.REGISTRY_CA = ""


def _api(user):
    _, secret = token_create(user=user, name="test")
    return _bearer(secret)


def _bearer(secret):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def admin(world):
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    return _api(world.alice)


def _made(admin, **values):
    reply = admin.post("/api/v1/join-tokens/", values)
    assert reply.status_code == 201, reply.content
    return reply.json()


def test_from_the_token_to_the_report(world, admin, settings, tmp_path):
    settings.PORTAL_URL = "http://localhost:8000"
    (tmp_path / "ca.pem").write_text("PEM of the registry's authority")
    settings.REGISTRY_CA = str(tmp_path / "ca.pem")
    made = _made(admin, labels={"zone": "a"})
    assert made["command"] == (f"curl -fsSL http://localhost:8000/join.sh | BERTH_JOIN_TOKEN={made['secret']} sh")
    reply = _bearer(made["secret"]).post("/api/v1/hosts/join/", facts())
    assert reply.status_code == 201, reply.content
    joined = reply.json()
    assert (joined["registry"], joined["registry_ca"]) == ("localhost:5443", "PEM of the registry's authority")
    reply = _bearer(joined["report_secret"]).post("/api/v1/hosts/report/", sample())
    assert (reply.status_code, reply.json()) == (200, {"renew": False, "certificate": ""})
    (host,) = admin.get("/api/v1/hosts/").json()["results"]
    assert (host["name"], host["zone"], host["status"], host["engine_version"]) == (
        *("metal-1", "a", "joining"),
        "20.10.24+dfsg1",
    )
    assert host["samples"]["cpu_millis_idle"] == 2000
    assert host["certificate_expires_at"]
    assert admin.get("/api/v1/hosts/metal-1/").json() == host
    (token,) = admin.get("/api/v1/join-tokens/").json()["results"]
    assert (token["state"], token["host"], token["created_by"]) == ("used", "metal-1", "alice")


def test_no_secret_stands_in_a_later_answer(world, admin):
    made = _made(admin)
    joined = _bearer(made["secret"]).post("/api/v1/hosts/join/", facts()).json()
    pages = b"".join(admin.get(f"/api/v1/{path}").content for path in ("join-tokens/", "hosts/", "hosts/metal-1/"))
    for secret in (made["secret"], joined["report_secret"], "PRIVATE", Authority.objects.get().key):
        assert secret.encode() not in pages


@pytest.mark.parametrize("path", ["join", "report"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer brj_x", "Basic YTpi", "Bearer \xe9"])
def test_without_a_good_secret_nothing_else_of_the_request_is_looked_at(world, path, header):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=header)
    reply = client.post(f"/api/v1/hosts/{path}/", {"name": []})
    code = {"join": "hosts.join_token_invalid", "report": "hosts.identity_invalid"}[path]
    assert (reply.status_code, reply.json()["code"]) == (404, code)


def test_an_admins_session_or_api_token_does_not_join_and_a_join_token_is_no_api_token(world, admin):
    assert admin.post("/api/v1/hosts/join/", facts()).json()["code"] == "hosts.join_token_invalid"
    secret = _made(admin)["secret"]
    assert _bearer(secret).get("/api/v1/me/").status_code == 401
    assert _bearer(secret).post("/api/v1/hosts/report/", sample()).json()["code"] == "hosts.identity_invalid"
    joined = _bearer(secret).post("/api/v1/hosts/join/", facts()).json()
    assert _bearer(joined["report_secret"]).get("/api/v1/hosts/").status_code == 401


@pytest.mark.parametrize(
    "bad",
    [
        {"name": None},
        {"address": "127.0.0.1"},
        {"labels": []},
        {"labels": {"zone": {"a": 1}}},
        {"memory_mb": "much"},
        {"cpu_millis": 2**40},
        {"csr": "x\0"},
        {"csr": "x" * 20000},
        {"engine_version": "x" * 61},
    ],
)
def test_a_bad_body_says_what_is_wrong_and_the_token_stays_good(world, admin, bad):
    secret = _made(admin)["secret"]
    reply = _bearer(secret).post("/api/v1/hosts/join/", facts(**bad))
    assert reply.status_code == 400
    assert reply.json()["code"] in {"request.invalid", "hosts.invalid", "hosts.csr_invalid"}
    assert JoinToken.objects.get().used_at is None


def test_reports_of_one_host_are_limited_and_others_are_not_touched(world, admin):
    first, second = (
        _bearer(_made(admin)["secret"])
        .post("/api/v1/hosts/join/", facts(name=f"metal-{n}", address=f"10.0.0.{n}"))
        .json()["report_secret"]
        for n in (1, 2)
    )
    answers = [_bearer(first).post("/api/v1/hosts/report/", sample()).status_code for _ in range(31)]
    assert (set(answers[:30]), answers[30]) == ({200}, 429)
    assert _bearer(second).post("/api/v1/hosts/report/", sample()).status_code == 200


ROUTES = [
    ("get", "hosts/"),
    ("get", "hosts/host-1/"),
    ("delete", "hosts/host-1/"),
    ("post", "hosts/host-1/availability/"),
    ("get", "join-tokens/"),
    ("post", "join-tokens/"),
    ("delete", "join-tokens/1/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_hosts_do_not_exist_for_tenants_and_the_signed_out_are_asked_to_sign_in(world, method, path):
    world.host()
    join_token_create(cluster=world.cluster, by=world.alice)
    for user in (world.alice, world.charlie):
        reply = getattr(_api(user), method)(f"/api/v1/{path}", {"availability": "draining"})
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
        assert b"host-1" not in reply.content
    assert getattr(APIClient(), method)(f"/api/v1/{path}").status_code == 401
    host = Host.objects.get()
    assert (host.status, host.availability) == ("ready", "active")
    assert JoinToken.objects.get().revoked_at is None


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_staff_without_the_permission_find_nothing_either(world, method, path):
    world.host()
    world.bob.is_staff = True
    world.bob.save()
    assert getattr(_api(world.bob), method)(f"/api/v1/{path}").status_code == 404


def test_staff_who_may_only_look_only_look(world):
    world.host()
    world.bob.is_staff = True
    world.bob.save()
    world.bob.user_permissions.set(Permission.objects.filter(codename="view_host"))
    client = _api(world.bob)
    assert client.get("/api/v1/hosts/host-1/").status_code == 200
    assert client.delete("/api/v1/hosts/host-1/").status_code == 404
    assert client.post("/api/v1/hosts/host-1/availability/", {"availability": "cordoned"}).status_code == 404


def test_an_operator_drains_and_removes_a_host(world, admin):
    host = world.host()
    reply = admin.post("/api/v1/hosts/host-1/availability/", {"availability": "draining"})
    assert (reply.status_code, reply.json()["availability"]) == (200, "draining")
    assert Event.objects.get(code="host.draining").actor == "alice"
    held = Allocation.objects.create(
        host=host, owner="00000000-0000-4000-8000-000000000001", tenant_id=1, memory_mb=1, cpu_millis=1
    )
    refused = admin.delete("/api/v1/hosts/host-1/")
    assert (refused.status_code, refused.json()["code"]) == (409, "hosts.in_use")
    assert refused.json()["instances"] == [str(held.owner)]
    held.delete()
    assert admin.delete("/api/v1/hosts/host-1/").status_code == 204
    assert admin.get("/api/v1/hosts/host-1/").json()["code"] == "hosts.not_found"
    assert admin.get("/api/v1/hosts/").json()["results"] == []


def test_an_unknown_availability_or_cluster_or_token_is_refused(world, admin):
    world.host()
    assert admin.post("/api/v1/hosts/host-1/availability/", {"availability": "gone"}).status_code == 400
    assert admin.post("/api/v1/join-tokens/", {"cluster": "none"}).status_code == 404
    assert admin.post("/api/v1/join-tokens/", {"labels": {"A": "b"}}).json()["code"] == "hosts.invalid"
    assert admin.post("/api/v1/join-tokens/", {"valid_s": 1}).status_code == 400
    assert admin.delete("/api/v1/join-tokens/77/").json()["code"] == "hosts.join_token_not_found"


def test_a_revoked_token_is_no_good(world, admin):
    made = _made(admin)
    assert admin.delete(f"/api/v1/join-tokens/{made['id']}/").status_code == 204
    assert admin.get("/api/v1/join-tokens/").json()["results"][0]["state"] == "revoked"
    assert _bearer(made["secret"]).post("/api/v1/hosts/join/", facts()).status_code == 404


# --- the script ---


def test_the_script_is_plain_text_knows_the_portal_and_is_a_script(world, client, settings, tmp_path):
    settings.PORTAL_URL = "https://paas.example.com/"
    reply = client.get("/join.sh")
    assert (reply.status_code, reply["Content-Type"]) == (200, "text/plain; charset=utf-8")
    text = reply.content.decode()
    assert "PORTAL='https://paas.example.com'\n" in text
    assert "@PORTAL_URL@" not in text
    assert "@REPORTER@" not in text
    assert "berth-host report --once" in text
    path = tmp_path / "join.sh"
    path.write_text(text)
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0


def test_a_script_that_was_cut_off_runs_nothing(world, client):
    text = client.get("/join.sh").content.decode()
    lines = text.splitlines()
    body = lines.index("set -eu")
    for end in (*range(body, len(lines), 17), len(lines) - 1):
        done = subprocess.run(
            ["/bin/sh"],
            input="\n".join(lines[:end]),
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/nowhere"},
        )
        assert (done.stdout, "join:" in done.stderr) == ("", False), end


@pytest.mark.parametrize(
    "url", ["https://a.example'; rm -rf /; '", "https://a.example/$(id)", "ftp://a", "https://", ""]
)
def test_a_portal_url_that_could_break_out_of_the_script_is_refused(settings, url):
    settings.PORTAL_URL = url
    with pytest.raises(ImproperlyConfigured):
        join_script()


# --- the admin ---


@pytest.fixture
def staff(world, admin, client):
    client.force_login(world.alice)
    return client


def test_the_admin_shows_the_command_once(world, staff):
    form = {"cluster": world.cluster.pk, "valid_minutes": 30, "labels": '{"zone": "a"}'}
    page = staff.post(reverse("admin:hosts_jointoken_add"), form)
    assert page.status_code == 200
    token = JoinToken.objects.get()
    assert (token.created_by, token.labels) == (world.alice, {"zone": "a"})
    (secret,) = [word for word in page.content.decode().split() if word.startswith("BERTH_JOIN_TOKEN=brj_")]
    for name, args in (("changelist", []), ("change", [token.pk])):
        later = staff.get(reverse(f"admin:hosts_jointoken_{name}", args=args))
        assert later.status_code == 200
        assert secret.partition("=")[2].encode() not in later.content
        assert token.digest.encode() not in later.content
    assert _bearer(secret.partition("=")[2]).post("/api/v1/hosts/join/", facts()).status_code == 201


@pytest.mark.parametrize("bad", [{"valid_minutes": 0}, {"labels": '{"A": 1}'}, {"labels": "x"}, {"cluster": ""}])
def test_a_bad_token_form_makes_none(world, staff, bad):
    form = {"cluster": world.cluster.pk, "valid_minutes": 30, "labels": "{}", **bad}
    assert staff.post(reverse("admin:hosts_jointoken_add"), form).status_code == 200
    assert not JoinToken.objects.exists()


def _act(staff, model, action, *rows):
    url = reverse(f"admin:hosts_{model}_changelist")
    return staff.post(url, {"action": action, "_selected_action": [row.pk for row in rows]}, follow=True)


def test_tokens_are_revoked_in_the_admin(world, staff):
    token, _ = join_token_create(cluster=world.cluster, by=world.alice)
    assert b"1 tokens are revoked" in _act(staff, "jointoken", "revoke", token).content
    token.refresh_from_db()
    assert token.revoked_at is not None


def test_hosts_are_set_aside_and_removed_in_the_admin_and_never_deleted(world, staff):
    host = world.host()
    for action, availability in (("cordon", "cordoned"), ("drain", "draining"), ("uncordon", "active")):
        _act(staff, "host", action, host)
        host.refresh_from_db()
        assert host.availability == availability
    held = Allocation.objects.create(
        host=host, owner="00000000-0000-4000-8000-000000000001", tenant_id=1, memory_mb=1, cpu_millis=1
    )
    assert str(held.owner).encode() in _act(staff, "host", "remove", host).content
    host.refresh_from_db()
    assert host.status == "ready"
    held.delete()
    page = _act(staff, "host", "remove", host)
    assert b"host-1 is removed" in page.content
    _act(staff, "host", "delete_selected", host)
    assert staff.post(reverse("admin:hosts_host_delete", args=[host.pk]), {"post": "yes"}).status_code == 403
    host.refresh_from_db()
    assert host.status == "removed"


def test_the_list_of_hosts_leads_who_may_make_tokens_to_where_machines_join(world, staff, client):
    join, listed = reverse("admin:hosts_host_join"), reverse("admin:hosts_host_changelist")
    world.host(disk_pressure=True)
    page = staff.get(listed).content.decode()
    assert join in page
    assert "Disk nearly full" in page
    assert staff.get(join).url == reverse("admin:hosts_jointoken_add")
    world.bob.is_staff = True
    world.bob.save()
    world.bob.user_permissions.add(Permission.objects.get(codename="view_host"))
    client.force_login(world.bob)
    assert join not in client.get(listed).content.decode()
    assert client.get(join).status_code == 403


def test_removed_hosts_are_hidden_until_they_are_asked_for(world, staff):
    world.host(name="gone", status="removed")
    world.host(name="here")
    url = reverse("admin:hosts_host_changelist")
    change = {
        name: reverse("admin:hosts_host_change", args=[Host.objects.get(name=name).pk]) for name in ("gone", "here")
    }

    def shown(query):
        page = staff.get(url, query).content.decode()
        return [name for name, link in change.items() if link in page]

    assert shown({}) == ["here"]
    assert shown({"removed": "shown"}) == ["gone", "here"]
    assert shown({"removed": "only"}) == ["gone"]


def test_a_joined_hosts_name_and_address_stay_what_its_certificate_says(world, staff):
    _, secret = join_token_create(cluster=world.cluster, by=world.alice)
    assert _bearer(secret).post("/api/v1/hosts/join/", facts()).status_code == 201
    host = Host.objects.get()
    form = {
        **{"cluster": world.cluster.pk, "labels": "{}", "memory_mb": 8000, "cpu_millis": 4000},
        **{"memory_mb_reserve": 100, "cpu_millis_reserve": 100, "port_min": 20000, "port_max": 20999},
        **{"availability": "cordoned", "address": "10.9.9.9", "engine_url": "https://10.9.9.9:2376", "name": "other"},
    }
    reply = staff.post(reverse("admin:hosts_host_change", args=[host.pk]), form)
    assert reply.status_code == 302
    host.refresh_from_db()
    assert (host.name, host.address, host.memory_mb, host.availability) == ("metal-1", "10.0.0.11", 8000, "cordoned")
    assert Event.objects.filter(code="host.cordoned", actor="alice").count() == 1


def test_a_clusters_ratios_reach_its_hosts_from_the_admin(world, staff):
    host = world.host()
    form = {"slug": "main", "name": "Main", "kind": "memory", "is_default": "on", "weights": "{}"}
    form |= {"memory_overcommit": 200, "cpu_overcommit": 400}
    assert staff.post(reverse("admin:hosts_cluster_change", args=[world.cluster.pk]), form).status_code == 302
    host.refresh_from_db()
    assert (host.memory_overcommit, host.cpu_overcommit) == (200, 400)
