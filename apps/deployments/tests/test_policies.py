"""Rules for an app's requests: who may set them, their bounds, and what is published of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import App, GatewayPolicy, SignInPerson
from apps.deployments.selectors import publication_of
from apps.deployments.services.apps import AppDeleting
from apps.deployments.services.deleting import app_close
from apps.deployments.services.moves import rollout_end
from apps.deployments.services.policies import (
    MOST,
    SWITCHES,
    PersonInvalid,
    PersonMissing,
    PolicyInvalid,
    PolicyOfHttp,
    TooManyPeople,
    person_remove,
    person_set,
    policy_set,
)
from apps.deployments.services.protocols import ProtocolInUse, ProtocolInvalid, protocol_set
from apps.deployments.services.rollouts import rollout_cancel
from apps.deployments.services.strategies import Options
from apps.deployments.tests.steps import deploy
from gateway.contract import Policy, Route

PASSWORD = "a-long-one"


def published(app: App) -> Any:
    found = publication_of(app.pk)
    assert found is not None
    return found


def test_an_app_without_rules_publishes_none(world, app):
    assert published(app).policy == Policy()
    assert not GatewayPolicy.objects.exists()


def test_rules_are_published_in_the_units_of_gateways(world, app):
    changes = {
        "maintenance": True,
        "https_only": True,
        "hsts_seconds": 3600,
        "hold_s": 5,
        "app_rate": 100,
        "client_rate": 10,
        "max_body_bytes": 1 << 20,
        "max_header_bytes": 8192,
        "answer_timeout_s": 30,
        "deny": ["10.0.0.1", "2001:DB8::/32"],
        "allow": ["10.0.0.0/8"],
    }
    before = App.objects.get(pk=app.pk).route_wanted
    policy_set(app=app, changes=changes, by=world.alice)
    assert App.objects.get(pk=app.pk).route_wanted == before + 1
    assert published(app).policy == Policy(
        maintenance=True,
        https_only=True,
        hsts_seconds=3600,
        hold_ms=5000,
        app_rate=100,
        client_rate=10,
        max_body_bytes=1 << 20,
        max_header_bytes=8192,
        answer_timeout_ms=30_000,
        deny=("10.0.0.1/32", "2001:db8::/32"),
        allow=("10.0.0.0/8",),
    )


def test_the_largest_of_everything_is_what_a_gateway_takes(world, app):
    most = {**MOST, **dict.fromkeys(SWITCHES, True), "deny": [f"10.{n // 256}.{n % 256}.0/24" for n in range(500)]}
    policy_set(app=app, changes=most, by=world.alice)
    policy = published(app).policy
    assert Policy.from_body(policy.to_body()) == policy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, most + 1) for name, most in MOST.items()),
        *((name, -1) for name in MOST),
        ("hold_s", True),
        ("hold_s", "5"),
        ("max_header_bytes", 100),
        ("maintenance", 1),
        ("deny", "10.0.0.1"),
        ("deny", ["10.0.0.1/8"]),
        ("deny", ["fe80::1%eth0"]),
        ("allow", ["::ffff:10.0.0.1"]),
        ("allow", ["10.0.0.1\nset map"]),
        ("allow", [f"10.{n // 256}.{n % 256}.0/24" for n in range(501)]),
        ("salt", "x"),
        ("testers", []),
    ],
)
def test_what_no_gateway_takes_is_refused_and_nothing_changes(world, app, name, value):
    with pytest.raises(PolicyInvalid):
        policy_set(app=app, changes={"maintenance": True, name: value}, by=world.alice)
    assert not GatewayPolicy.objects.exists()


def test_a_developer_changes_rules_but_not_who_may_come_in(world, app):
    policy_set(app=app, changes={"hold_s": 5}, by=world.bob)
    policy_set(app=app, changes={"allow": ["10.0.0.0/8"]}, by=world.alice)
    policy_set(app=app, changes={"hold_s": 6, "allow": ["10.0.0.0/8"]}, by=world.bob)
    for changes in ({"allow": []}, {"deny": ["10.1.0.0/16"]}, {"hold_s": 7, "allow": []}):
        with pytest.raises(Denied):
            policy_set(app=app, changes=changes, by=world.bob)
    for who in (world.vera, world.charlie):
        with pytest.raises(Denied):
            policy_set(app=app, changes={"hold_s": 5}, by=who)
        with pytest.raises(Denied):
            person_set(app=app, name="visitor", password=PASSWORD, by=who)
    with pytest.raises(Denied):
        person_set(app=app, name="visitor", password=PASSWORD, by=world.bob)
    assert published(app).policy == Policy(hold_ms=6000, allow=("10.0.0.0/8",))


def test_each_change_is_an_event_and_what_was_so_already_is_none(world, app):
    policy_set(app=app, changes={"maintenance": True, "hold_s": 5}, by=world.bob)
    wanted = App.objects.get(pk=app.pk).route_wanted
    policy_set(app=app, changes={"maintenance": True, "hold_s": 5}, by=world.bob)
    assert App.objects.get(pk=app.pk).route_wanted == wanted
    policy_set(app=app, changes={"maintenance": False}, by=world.alice)
    told = Event.objects.filter(code__startswith="policy.").order_by("pk").values_list("code", "actor")
    assert list(told) == [
        ("policy.maintenance_began", "bob"),
        ("policy.changed", "bob"),
        ("policy.maintenance_ended", "alice"),
    ]
    detail = Event.objects.get(code="policy.changed").detail
    assert (detail["before"], detail["after"]) == ({"hold_s": 0}, {"hold_s": 5})


def test_a_long_list_does_not_fill_the_event(world, app):
    policy_set(app=app, changes={"deny": [f"10.0.{n}.0/24" for n in range(200)]}, by=world.alice)
    assert Event.objects.get(code="policy.changed").detail["after"]["deny"][-1] == "and 180 more"


def test_people_are_published_as_digests_of_the_header_that_a_browser_sends(world, app):
    person_set(app=app, name="visitor", password="pass:word 1", by=world.alice)
    signed = published(app).policy.sign_in
    header = b"Basic " + base64.b64encode(b"visitor:pass:word 1")
    salt = base64.b64decode(signed.salt)
    assert len(salt) == 32
    assert signed.digests == (hmac.new(salt, header, hashlib.sha256).hexdigest(),)
    assert Policy.from_body(published(app).policy.to_body()).sign_in == signed
    person_set(app=app, name="visitor", password="another one", by=world.alice)
    assert published(app).policy.sign_in.salt == signed.salt
    assert published(app).policy.sign_in.digests != signed.digests
    person_remove(app=app, name="visitor", by=world.alice)
    assert published(app).policy.sign_in is None
    assert "open to everybody" in Event.objects.get(code="policy.person_removed").message
    with pytest.raises(PersonMissing):
        person_remove(app=app, name="visitor", by=world.alice)


def test_neither_password_nor_digest_stands_readable_in_the_database_or_an_event(world, app):
    from django.db import connection

    person_set(app=app, name="visitor", password=PASSWORD, by=world.alice)
    digest = published(app).policy.sign_in.digests[0]
    with connection.cursor() as cursor:
        cursor.execute("SELECT digest FROM deployments_signinperson")
        assert digest not in str(cursor.fetchall())
    for event in Event.objects.all():
        assert PASSWORD not in f"{event.message}{event.detail}"
        assert digest not in f"{event.message}{event.detail}"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("a:b", PASSWORD),
        ("", PASSWORD),
        ("a b", PASSWORD),
        ("x" * 65, PASSWORD),
        ("a\n", PASSWORD),
        ("müller", PASSWORD),
        ("a", "short"),
        ("a", "x" * 129),
        ("a", "line\nbreak"),
        ("a", "pässwort"),
    ],
)
def test_names_and_passwords_that_browsers_send_in_several_ways_are_refused(world, app, name, password):
    with pytest.raises(PersonInvalid):
        person_set(app=app, name=name, password=password, by=world.alice)
    assert not SignInPerson.objects.exists()


def test_people_are_bounded(world, app, monkeypatch):
    monkeypatch.setattr("apps.deployments.services.policies.MOST_USERS", 2)
    for name in ("a", "b", "a"):
        person_set(app=app, name=name, password=PASSWORD, by=world.alice)
    with pytest.raises(TooManyPeople):
        person_set(app=app, name="c", password=PASSWORD, by=world.alice)


def test_an_app_that_is_being_deleted_keeps_its_rules(world, app):
    app_close(app_id=app.pk, by="alice")
    with pytest.raises(AppDeleting):
        policy_set(app=app, changes={"hold_s": 5}, by=world.alice)
    with pytest.raises(AppDeleting):
        person_set(app=app, name="visitor", password=PASSWORD, by=world.alice)


# Protocols --------------------------------------------------------------------------------------------------------


def test_an_app_of_tcp_publishes_its_names_for_tls_and_only_lists_of_networks(world, app):
    protocol_set(app=app, protocol="tcp", by=world.bob)
    policy_set(app=app, changes={"deny": ["10.0.0.1"]}, by=world.alice)
    found = published(app)
    assert (found.protocol, found.domains, found.passthrough) == ("tcp", (), ("shop.localhost",))
    assert found.policy == Policy(deny=("10.0.0.1/32",))
    with pytest.raises(PolicyOfHttp):
        policy_set(app=app, changes={"maintenance": True}, by=world.alice)
    with pytest.raises(PolicyOfHttp):
        person_set(app=app, name="visitor", password=PASSWORD, by=world.alice)
    policy_set(app=app, changes={"maintenance": False}, by=world.alice)


def test_rules_about_requests_keep_an_app_from_speaking_tcp(world, app):
    policy_set(app=app, changes={"hold_s": 5}, by=world.alice)
    person_set(app=app, name="visitor", password=PASSWORD, by=world.alice)
    with pytest.raises(PolicyOfHttp, match="hold_s, people"):
        protocol_set(app=app, protocol="tcp", by=world.alice)
    protocol_set(app=app, protocol="h2", by=world.alice)
    assert published(app).protocol == "h2"
    assert published(app).domains == ("shop.localhost",)


def test_the_protocol_of_what_runs_stays(world, app, loop):
    deploy(app, world, instances=1)
    with pytest.raises(ProtocolInUse):
        protocol_set(app=app, protocol="tcp", by=world.alice)
    loop.settle()
    with pytest.raises(ProtocolInUse):
        protocol_set(app=app, protocol="tcp", by=world.alice)
    app.instances.update(released=True)
    with pytest.raises(ProtocolInUse):
        protocol_set(app=app, protocol="tcp", by=world.alice)
    with pytest.raises(ProtocolInvalid):
        protocol_set(app=app, protocol="udp", by=world.alice)
    with pytest.raises(Denied):
        protocol_set(app=app, protocol="tcp", by=world.vera)
    assert published(app).protocol == "http"


@pytest.mark.parametrize("protocol", ["tcp", "h2"])
def test_what_does_not_speak_http_1_is_asked_by_a_connect_unless_somebody_says_otherwise(world, app, loop, protocol):
    first = deploy(app, world, instances=1)
    assert first.target.release.health_path == "/_ping"
    rollout_cancel(app=app, number=1, by=world.alice)
    loop.settle()
    protocol_set(app=app, protocol=protocol, by=world.alice)
    assert deploy(app, world, instances=1).target.release.health_path == ""
    loop.settle()
    assert published(app).protocol == protocol
    assert len(published(app).instances) == 1
    assert deploy(app, world, instances=1, health_path="/up").target.release.health_path == "/up"


# Testers ----------------------------------------------------------------------------------------------------------


def _canary(app: App, world: Any, loop: Any, **values: Any) -> Any:
    deploy(app, world, instances=2)
    loop.settle()
    steps = ({"weight": 10, "pause_s": None},)
    return deploy(app, world, instances=2, options=Options(strategy="canary", steps=steps, judge_s=0), **values)


def test_testers_reach_the_canary_for_as_long_as_its_rollout_is_open(world, app, loop):
    policy_set(app=app, changes={"canary_for_testers": True}, by=world.bob)
    rollout = _canary(app, world, loop, settings={"A": "1"})
    loop.settle()
    rollout.refresh_from_db()
    assert rollout.status == "paused"
    new = set(rollout.target.instances.filter(status="healthy").values_list("container_id", flat=True))
    assert new
    assert set(published(app).policy.testers) == new
    assert loop.discovery.policies["shop"]["testers"] == sorted(new)
    rollout_cancel(app=app, number=rollout.number, by=world.alice)
    loop.settle()
    assert "testers" not in loop.discovery.policies["shop"]


def test_the_end_of_a_canary_is_a_reason_to_publish(world, app, loop):
    policy_set(app=app, changes={"canary_for_testers": True}, by=world.bob)
    rollout = _canary(app, world, loop, settings={"A": "1"})
    loop.settle()
    before = published(app)
    assert before.policy.testers
    assert rollout_end(rollout=rollout, status="succeeded")
    assert published(app).policy.testers == ()
    assert published(app).wanted > before.wanted


def test_without_the_switch_nobody_is_led_to_the_canary(world, app, loop):
    _canary(app, world, loop, settings={"A": "1"})
    loop.settle()
    assert published(app).policy.testers == ()


def test_a_canary_of_the_same_version_is_published_for_testers_with_no_share(world, app, loop):
    policy_set(app=app, changes={"canary_for_testers": True}, by=world.bob)
    rollout = _canary(app, world, loop, settings={"A": "1"})
    loop.settle()
    rollout.target.weight = 0
    rollout.target.save()
    new = set(rollout.target.instances.filter(status="healthy").values_list("container_id", flat=True))
    found = published(app)
    assert set(found.policy.testers) == new <= {one.container_id for one in found.instances}
    shares = {container: share for share, containers in found.groups for container in containers}
    assert {shares[one] for one in new} == {0}
    assert {share for one, share in shares.items() if one not in new} == {90}
    policy_set(app=app, changes={"canary_for_testers": False}, by=world.bob)
    assert not new & {one.container_id for one in published(app).instances}


def test_what_is_published_is_a_route_of_the_contract(world, app):
    from apps.deployments.discovery import _route

    policy_set(app=app, changes={"deny": ["10.0.0.1"]}, by=world.alice)
    person_set(app=app, name="visitor", password=PASSWORD, by=world.alice)
    route = _route(published(app), 1)
    assert Route.from_json(route.to_json()) == route
