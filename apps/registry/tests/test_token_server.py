"""The token server's two forms, refresh tokens, robots, anonymous pulls, and failed sign-ins."""

from __future__ import annotations

import base64
import time
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from django.test import Client

from apps.core.clock import now
from apps.core.models import Event, FailedSignIns
from apps.registry.models import RefreshToken, Repository, Robot
from apps.registry.services import sign_in as signing_in
from apps.registry.services.robots import robot_create, robot_delete, robot_renew
from apps.registry.services.tokens import Access, granted_to, parse_scopes
from apps.tenants.models import ApiToken
from apps.tenants.services.tokens import token_create, token_revoke

URL = "/api/registry/token"
SERVICE = "berth-registry"
ALL = "repository:shop:pull,push,delete"


@pytest.fixture
def shop(world, token_key):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    return world.app("shop")


@pytest.fixture
def secret(world):
    return token_create(user=world.alice, name="docker", scopes=["registry"])[1]


def _get(name, secret, *scopes, address="203.0.113.7", **more):
    basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
    asked = {"service": SERVICE, "scope": scopes, **more}
    return Client(REMOTE_ADDR=address).get(URL, asked, headers={"authorization": f"Basic {basic}"})


def _post(**form):
    return Client(enforce_csrf_checks=True).post(URL, {"service": SERVICE, "client_id": "test", **form})


def _refresh(token, *scopes):
    return _post(grant_type="refresh_token", refresh_token=token, scope=" ".join(scopes))


def _claims(reply):
    assert reply.status_code == 200, reply.content
    return jwt.decode(reply.json()["token"], options={"verify_signature": False})


def _access(reply):
    return {one["name"]: set(one["actions"]) for one in _claims(reply)["access"]}


# The forms


def test_oauth2s_password_grant_gives_what_basic_gives(shop, secret, token_key):
    reply = _post(grant_type="password", username="alice", password=secret, scope=ALL)
    assert _access(reply) == _access(_get("alice", secret, ALL)) == {"shop": {"pull", "push", "delete"}}
    body = reply.json()
    assert body["access_token"] == body["token"]
    assert body["scope"] == "repository:shop:delete,pull,push"
    assert body["expires_in"] >= 60
    assert "refresh_token" not in body
    key = serialization.load_pem_private_key(open(token_key, "rb").read(), None).public_key()  # noqa: PTH123, SIM115
    assert jwt.decode(body["token"], key, algorithms=["RS256"], audience=SERVICE, issuer="berth")["sub"] == "alice"


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "password", "username": "alice", "password": "a-long-pass-phrase"},
        {"grant_type": "password", "username": "alice"},
        {"grant_type": "password"},
        {"grant_type": "refresh_token"},
        {"grant_type": "refresh_token", "refresh_token": "brf_" + "x" * 43},
        {"grant_type": "refresh_token", "refresh_token": "x\0y"},
        {"grant_type": "password", "username": "robot/acme/\0", "password": "brr_" + "x" * 43},
    ],
)
def test_credentials_that_are_not_good_get_401_by_post_too(shop, form):
    reply = _post(**form)
    assert reply.status_code == 401
    assert reply.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_other_grants_services_and_methods_are_refused(shop, secret):
    assert _post(grant_type="authorization_code").status_code == 400
    assert _post(grant_type="password", service="other", username="alice", password=secret).status_code == 400
    assert Client().put(URL).status_code == 405


@pytest.mark.parametrize("header", ["Bearer x", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"alice").decode()])
def test_a_header_that_holds_no_name_and_secret_is_not_taken_for_nobodys(shop, header):
    Repository.objects.filter(name="shop").update(is_public=True)
    asked = {"service": SERVICE, "scope": "repository:shop:pull"}
    assert Client().get(URL, asked, headers={"authorization": header}).status_code == 401


# Scopes


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ("repository:shop:pull", [Access("shop", ("pull",))]),
        ("repository:localhost:5443/shop:pull,push", [Access("shop", ("pull", "push"))]),
        ("repository:registry.example.com:5000/shop:pull", []),
        ("repository:registry.example.com/shop:pull", []),
        ("repository(plugin):shop:pull", [Access("shop", ("pull",), "plugin")]),
        ("repository:shop:*", [Access("shop", ("delete", "pull", "push"))]),
        ("repository:shop:pull repository:shop:push", [Access("shop", ("pull", "push"))]),
        ("repository:team/app:pull", [Access("team/app", ("pull",))]),
        ("repository:shop:", []),
        ("repository::pull", []),
        ("repository:shop", []),
        ("repository:SHOP:pull", []),
        ("repository:shop\x00:pull", []),
        ("registry:catalog:*", []),
    ],
)
def test_scopes_are_read_as_the_specification_writes_them(settings, scope, asked):
    settings.REGISTRY_PUBLIC = settings.REGISTRY_FOR_HOSTS = "localhost:5443"
    assert parse_scopes([scope]) == asked


@pytest.mark.parametrize("middle", ["." * 60_000, "a." * 30_000, "a:1" * 20_000])
def test_a_scope_of_any_length_is_answered_at_once_to_whoever_asks(shop, middle):
    """60 kB is what fits into a request's first line; in it nobody else of the process is answered."""
    began = time.monotonic()
    asked = {"service": SERVICE, "scope": f"repository:{middle}:pull"}
    assert Client().get(URL, asked).status_code == 401
    assert parse_scopes([" ".join(f"repository:{middle[:399]}:pull" for _ in range(1000))]) == []
    assert time.monotonic() - began < 2


def test_the_class_of_a_scope_comes_back_in_the_token(shop, secret):
    claims = _claims(_get("alice", secret, "repository(plugin):shop:pull"))
    assert claims["access"] == [{"type": "repository", "class": "plugin", "name": "shop", "actions": ["pull"]}]


# Nobody


def test_nobody_gets_the_pulls_that_everybody_has_and_no_more(shop):
    def ask(*scopes):
        return Client().get(URL, {"service": SERVICE, "scope": scopes})

    assert ask("repository:shop:pull").status_code == 401
    Repository.objects.filter(name="shop").update(is_public=True)
    reply = ask(ALL, "repository:theirs:pull")
    assert _access(reply) == {"shop": {"pull"}}
    assert _claims(reply)["sub"] == ""
    assert ask("repository:theirs:pull").status_code == 401
    assert ask("repository:shop:push").status_code == 401
    assert ask().status_code == 401


def test_public_is_for_signed_in_strangers_too_and_ends_with_the_tenant(world, shop):
    _token, theirs = token_create(user=world.charlie, name="docker")
    Repository.objects.filter(name="shop").update(is_public=True)
    assert _access(_get("charlie", theirs, ALL)) == {"shop": {"pull"}}
    world.acme.is_active = False
    world.acme.save()
    assert _access(_get("charlie", theirs, ALL)) == {}
    assert Client().get(URL, {"service": SERVICE, "scope": ALL}).status_code == 401


# Refresh tokens


def test_docker_login_gets_a_refresh_token_that_stands_for_its_credential(world, shop, secret):
    reply = _get("alice", secret, offline_token="true", client_id="docker")
    refresh = reply.json()["refresh_token"]
    again = _refresh(refresh, ALL)
    assert _access(again) == {"shop": {"pull", "push", "delete"}}
    assert again.json()["refresh_token"] == refresh
    kept = RefreshToken.objects.get()
    assert refresh not in str(vars(kept))
    assert (kept.client, kept.api_token.user) == ("docker", world.alice)
    assert (
        "refresh_token" in _post(grant_type="password", username="alice", password=secret, access_type="offline").json()
    )
    assert "refresh_token" not in _get("alice", secret).json()


@pytest.mark.parametrize(
    "ends",
    ["revoked", "expired", "user", "scope", "unused", "robot off", "robot expired", "robot renewed", "robot gone"],
)
def test_a_refresh_token_ends_with_its_credential(world, shop, secret, ends):
    name = "alice"
    if ends.startswith("robot"):
        robot, secret = robot_create(tenant=world.acme, by=world.alice, name="ci")
        name = robot.login
    refresh = _get(name, secret, offline_token="true").json()["refresh_token"]
    assert _refresh(refresh).status_code == 200
    token, past = ApiToken.objects.first(), now() - timedelta(seconds=1)
    if ends == "revoked":
        token_revoke(user=world.alice, pk=token.pk)
    if ends == "expired":
        ApiToken.objects.update(expires_at=past)
    if ends == "user":
        type(world.alice).objects.filter(pk=world.alice.pk).update(is_active=False)
    if ends == "scope":
        ApiToken.objects.update(scopes=["api"])
    if ends == "unused":
        RefreshToken.objects.update(expires_at=past)
    if ends == "robot off":
        Robot.objects.update(is_active=False)
    if ends == "robot expired":
        Robot.objects.update(expires_at=past)
    if ends == "robot renewed":
        robot_renew(tenant=world.acme, by=world.alice, name="ci")
    if ends == "robot gone":
        robot_delete(tenant=world.acme, by=world.alice, name="ci")
    assert _refresh(refresh).status_code == 401


def test_a_refresh_token_holds_what_the_role_allows_now(world, shop):
    _token, secret = token_create(user=world.bob, name="docker")
    refresh = _get("bob", secret, offline_token="true").json()["refresh_token"]
    assert _access(_refresh(refresh, ALL)) == {"shop": {"pull", "push"}}
    world.acme.memberships.filter(user=world.bob).update(role="viewer")
    assert _access(_refresh(refresh, ALL)) == {"shop": {"pull"}}
    world.acme.memberships.filter(user=world.bob).delete()
    assert _access(_refresh(refresh, ALL)) == {}


def test_its_life_moves_on_with_its_use_at_most_once_a_minute(shop, secret, django_assert_max_num_queries):
    refresh = _get("alice", secret, offline_token="true").json()["refresh_token"]
    soon, long_ago = now() + timedelta(hours=1), now() - timedelta(minutes=2)
    RefreshToken.objects.update(expires_at=soon, last_used_at=long_ago)
    ApiToken.objects.update(last_used_at=long_ago)
    _refresh(refresh)
    first = RefreshToken.objects.get()
    assert first.expires_at > now() + timedelta(days=80)
    assert first.last_used_at > long_ago
    assert ApiToken.objects.get().last_used_at > long_ago
    _refresh(refresh)
    assert RefreshToken.objects.get().last_used_at == first.last_used_at


def test_of_one_credential_the_newest_sign_ins_are_kept(shop, secret, monkeypatch):
    monkeypatch.setattr(signing_in, "MOST", 3)
    made = [_get("alice", secret, offline_token="true").json()["refresh_token"] for _ in range(5)]
    assert [_refresh(one).status_code for one in made] == [401, 401, 200, 200, 200]


def test_a_refresh_token_is_neither_a_password_nor_an_api_token(shop, secret):
    refresh = _get("alice", secret, offline_token="true").json()["refresh_token"]
    assert _get("alice", refresh).status_code == 401
    assert _refresh(secret).status_code == 401
    assert Client().get("/api/v1/me/", headers={"authorization": f"Bearer {refresh}"}).status_code == 401


# Robots


@pytest.mark.parametrize(
    ("actions", "app", "shop_gets", "blog_gets"),
    [
        (["pull"], "", {"pull"}, {"pull"}),
        (["pull"], "shop", {"pull"}, set()),
        (["push"], "shop", {"pull", "push"}, set()),
        (["pull", "push"], "", {"pull", "push"}, {"pull", "push"}),
        (["delete"], "shop", {"delete"}, set()),
    ],
)
def test_a_robot_may_what_it_was_made_for(world, shop, actions, app, shop_gets, blog_gets):
    world.app("blog")
    robot, secret = robot_create(tenant=world.acme, by=world.alice, name="ci", actions=actions, app=app)
    assert robot.login == "robot/acme/ci"
    scopes = [f"repository:{name}:pull,push,delete" for name in ("shop", "blog", "theirs")]
    reply = _get(robot.login, secret, *scopes)
    wanted = {"shop": shop_gets, "blog": blog_gets}
    assert _access(reply) == {name: got for name, got in wanted.items() if got}
    assert _claims(reply)["sub"] == "robot/acme/ci"


def test_a_robot_pulls_unless_more_was_asked_for(world, shop):
    robot, _secret = robot_create(tenant=world.acme, by=world.alice, name="ci")
    assert robot.actions == ["pull"]


@pytest.mark.parametrize("case", ["off", "expired", "tenant", "name", "other's", "renewed", "api token"])
def test_a_robot_that_may_not_gets_401(world, shop, secret, case):
    robot, own = robot_create(tenant=world.acme, by=world.alice, name="ci")
    login = robot.login
    if case == "off":
        Robot.objects.update(is_active=False)
    if case == "expired":
        Robot.objects.update(expires_at=now() - timedelta(seconds=1))
    if case == "tenant":
        type(world.acme).objects.filter(pk=world.acme.pk).update(is_active=False)
    if case == "name":
        login = "robot/acme/ci2"
    if case == "other's":
        login = "robot/rival/ci"
    if case == "renewed":
        robot_renew(tenant=world.acme, by=world.alice, name="ci")
    if case == "api token":
        own = secret
    assert _get(login, own, ALL).status_code == 401


def test_a_robot_that_is_switched_off_is_given_nothing_whoever_asks_for_it(world, shop):
    robot, _secret = robot_create(tenant=world.acme, by=world.alice, name="ci")
    assert granted_to(robot, parse_scopes([ALL])) == [Access("shop", ("pull",))]
    robot.is_active = False
    assert granted_to(robot, parse_scopes([ALL])) == []


def test_its_last_use_is_noted_once_a_minute(world, shop):
    robot, secret = robot_create(tenant=world.acme, by=world.alice, name="ci")
    assert robot.last_used_at is None
    _get(robot.login, secret)
    used = Robot.objects.get().last_used_at
    assert now() - used < timedelta(seconds=20)
    _get(robot.login, secret)
    assert Robot.objects.get().last_used_at == used


def test_robots_go_with_their_app_and_their_secrets_are_hashes(world, shop):
    robot, secret = robot_create(tenant=world.acme, by=world.alice, name="ci", app="shop")
    assert secret not in str(vars(Robot.objects.get()))
    Repository.objects.filter(name="shop").delete()
    assert not Robot.objects.filter(pk=robot.pk).exists()


# Failed sign-ins


def test_after_a_few_failures_the_client_is_told_to_wait(world, shop, secret):
    wrong = "brt_" + "x" * 43
    assert [_get("alice", wrong).status_code for _ in range(6)] == [401] * 5 + [429]
    reply = _get("alice", secret)
    assert reply.status_code == 429
    assert reply.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert 1 <= int(reply["Retry-After"]) <= 6
    assert f"Wait {reply['Retry-After']} s" in reply.json()["errors"][0]["message"]
    assert _get("alice", secret, address="203.0.113.8").status_code == 200, "who did not fail does not wait"


def test_the_tenants_of_the_name_are_told_once(world, shop):
    for _ in range(8):
        _get("bob", "brt_" + "x" * 43)
    event = Event.objects.get(code="registry.sign_in_locked")
    assert event.tenant_id == world.acme.pk
    assert "bob" in event.message
    assert "203.0.113.7" not in event.message


@pytest.mark.parametrize("name", ["brt_" + "y" * 43, "robot/acme/\0", "al\0ice", "x" * 1000, "ali ce\n"])
def test_of_a_name_that_nobody_has_nothing_is_told(world, shop, name):
    assert [_get(name, "x").status_code for _ in range(8)] == [401] * 5 + [429] * 3
    assert not Event.objects.filter(code="registry.sign_in_locked").exists()


def test_an_old_refresh_token_keeps_only_itself_waiting(world, shop, secret):
    good = _get("alice", secret, offline_token="true").json()["refresh_token"]
    old = "brf_" + "z" * 43
    assert [_refresh(old).status_code for _ in range(6)] == [401] * 5 + [429]
    assert _refresh(good).status_code == 200


def test_somebody_who_signs_in_rightly_is_never_counted(shop, secret):
    for _ in range(40):
        assert _get("alice", secret).status_code == 200
    assert not FailedSignIns.objects.exists()


# The one hook of the quota


def test_a_push_may_be_refused_with_a_sentence_while_pulls_and_deletes_go_on(shop, secret, monkeypatch):
    monkeypatch.setattr("apps.registry.services.tokens.push_refusal", lambda repository: f"{repository} is full.")
    refused = _get("alice", secret, "repository:shop:pull,push")
    assert refused.status_code == 403
    assert refused.json() == {"errors": [{"code": "DENIED", "message": "shop is full."}]}
    assert _access(_get("alice", secret, "repository:shop:pull")) == {"shop": {"pull"}}
    assert _access(_get("alice", secret, "repository:shop:*")) == {"shop": {"pull", "delete"}}
    assert _access(_get("alice", secret, ALL)) == {"shop": {"pull", "delete"}}


def test_who_may_not_push_is_not_told_about_the_storage(world, shop, monkeypatch):
    monkeypatch.setattr("apps.registry.services.tokens.push_refusal", lambda repository: "full")
    _token, secret = token_create(user=world.vera, name="docker")
    assert _access(_get("vera", secret, "repository:shop:pull,push")) == {"shop": {"pull"}}
    _token, secret = token_create(user=world.charlie, name="docker")
    assert _access(_get("charlie", secret, "repository:shop:pull,push")) == {}
