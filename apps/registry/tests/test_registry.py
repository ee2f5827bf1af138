"""The token server and the notifications, as the registry and docker's client use them."""

from __future__ import annotations

import base64
import json
import random
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from django.db.models.signals import post_init
from django.test import Client

from apps.core.clock import now
from apps.registry.models import Version
from apps.registry.services.keys import key_id
from apps.registry.services.tokens import Access, parse_scopes, pull_token
from apps.registry.services.versions import repository_listed, version_pushed
from apps.tenants.services.tokens import token_create

URL = "/api/registry/token"
NOTIFY = "/api/registry/notifications"


@pytest.fixture
def app(world, token_key):
    return world.app("shop")


def _public(path):
    return serialization.load_pem_private_key(Path(path).read_bytes(), None).public_key()


def _ask(user, secret, *scopes, service="berth-registry"):
    basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
    return Client().get(URL, {"service": service, "scope": scopes}, headers={"authorization": f"Basic {basic}"})


def _access(reply, token_key):
    claims = jwt.decode(
        reply.json()["token"], _public(token_key), algorithms=["RS256"], audience="berth-registry", issuer="berth"
    )
    return {one["name"]: set(one["actions"]) for one in claims["access"]}


@pytest.mark.parametrize(
    ("who", "granted"),
    [("alice", {"pull", "push", "delete"}), ("bob", {"pull", "push"}), ("vera", {"pull"}), ("charlie", None)],
)
def test_a_token_holds_what_the_role_allows_of_what_was_asked(world, app, token_key, who, granted):
    user = getattr(world, who)
    _, secret = token_create(user=user, name="docker")
    reply = _ask(who, secret, "repository:shop:pull,push,delete")
    assert reply.status_code == 200
    assert _access(reply, token_key) == ({"shop": granted} if granted else {})
    assert reply.json()["expires_in"] >= 60


def test_several_scopes_are_granted_one_by_one(world, app, token_key):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    _, secret = token_create(user=world.alice, name="docker")
    reply = _ask("alice", secret, "repository:theirs:pull,push repository:shop:pull", "registry:catalog:*")
    assert _access(reply, token_key) == {"shop": {"pull"}}


def test_a_login_without_scope_gets_an_empty_token(world, app, token_key):
    _, secret = token_create(user=world.alice, name="docker")
    assert _access(_ask("alice", secret), token_key) == {}


@pytest.mark.parametrize("case", ["password", "wrong", "other's", "revoked", "expired", "api only", "disabled"])
def test_credentials_that_are_not_good_get_401(world, app, case):
    user, name = world.alice, "alice"
    token, secret = token_create(
        user=user,
        name="x",
        scopes=["api"] if case == "api only" else ["registry"],
        expires_at=now() - timedelta(seconds=1) if case == "expired" else None,
    )
    if case == "password":
        secret = "a-long-pass-phrase"
    if case == "wrong":
        secret = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    if case == "other's":
        name = "bob"
    if case == "revoked":
        token.delete()
    if case == "disabled":
        user.is_active = False
        user.save()
    reply = _ask(name, secret, "repository:shop:pull")
    assert reply.status_code == 401
    assert reply.json()["errors"][0]["code"] == "UNAUTHORIZED"
    assert "Basic" in reply["WWW-Authenticate"]


def test_no_credentials_get_401_and_another_service_400(world, app):
    assert Client().get(URL, {"service": "berth-registry"}).status_code == 401
    assert _ask("alice", "x", service="other").status_code == 400


def test_the_key_id_is_libtrusts(db, token_key):
    token = pull_token("shop")
    header = jwt.get_unverified_header(token)
    assert header == {"alg": "RS256", "typ": "JWT", "kid": key_id(_public(token_key))}
    assert [len(group) for group in header["kid"].split(":")] == [4] * 12


def test_scopes_that_are_none_are_left_out():
    assert parse_scopes(["repository:shop:pull,push", "repository:a b:pull", "repository:../x:pull", "registry:*"]) == [
        Access("shop", ("pull", "push"))
    ]


def _envelope(*events):
    return json.dumps({"events": [*events]})


def _push(tag="1.0", digest="a", repository="shop", at=None, **extra):
    target = {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "repository": repository,
        "tag": tag,
        "digest": "sha256:" + digest * 64,
    }
    return {
        "id": "1",
        "timestamp": (at or now()).isoformat(),
        "action": "push",
        "target": {**target, **extra},
        "actor": {"name": "alice"},
    }


@pytest.fixture
def notify(settings):
    settings.REGISTRY_NOTIFICATION_SECRET = "s3cret-of-this-test"

    def send(body, secret="s3cret-of-this-test"):
        return Client().post(
            NOTIFY,
            body,
            content_type="application/vnd.docker.distribution.events.v1+json",
            headers={"authorization": f"Bearer {secret}"},
        )

    return send


def _current():
    return dict(Version.objects.filter(is_current=True).values_list("tag", "digest"))


def test_a_push_becomes_a_version_pinned_by_its_digest(app, notify):
    assert notify(_envelope(_push())).status_code == 200
    version = Version.objects.get()
    assert (version.tag, version.digest, version.pushed_by) == ("1.0", "sha256:" + "a" * 64, "alice")


def test_repeated_and_shuffled_pushes_end_in_the_latest(app, notify):
    start = now() - timedelta(seconds=20)
    events = [_push(digest=digest, at=start + timedelta(seconds=age)) for age, digest in enumerate("abcab")]
    random.Random(7).shuffle(events)
    for event in [*events, *events]:
        assert notify(_envelope(event)).status_code == 200
    assert _current() == {"1.0": "sha256:" + "b" * 64}
    assert Version.objects.count() == 3


@pytest.mark.parametrize("secret", ["", "wrong"])
def test_notifications_of_others_are_refused(app, notify, secret):
    assert notify(_envelope(_push()), secret).status_code == 401
    assert not Version.objects.exists()


def test_notifications_are_refused_while_no_secret_is_set(app, notify, settings):
    settings.REGISTRY_NOTIFICATION_SECRET = ""
    assert notify(_envelope(_push()), "").status_code == 401


@pytest.mark.parametrize(
    "event",
    [
        _push(repository="unknown"),
        _push(tag="../x"),
        _push(digest="z"),
        _push(tag=None),
        {"action": "pull"},
        {"action": "push", "target": "x"},
        "x",
        None,
    ],
)
def test_events_that_are_none_of_ours_change_nothing(app, notify, event):
    assert notify(_envelope(event)).status_code == 200
    assert not Version.objects.exists()


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"events": 3}'])
def test_an_envelope_that_is_none_gets_400(app, notify, body):
    assert notify(body).status_code == 400


def test_listing_finds_lost_pushes_and_vanished_tags(world, app):
    world.push(app, "1.0", "a" * 64)
    world.push(app, "2.0", "b" * 64)
    repository = Version.objects.first().repository
    repository_listed(
        repository=repository, tags={"1.0": "sha256:" + "c" * 64, "3.0": "sha256:" + "d" * 64}, asked_at=now()
    )
    assert _current() == {"1.0": "sha256:" + "c" * 64, "3.0": "sha256:" + "d" * 64}


def test_a_push_of_a_tag_that_had_many_images_looks_at_few_of_them(world, app):
    """The registry tells of pushes one after the other, and waits for each answer."""
    first = world.push(app, "main")
    Version.objects.bulk_create(
        Version(
            repository=first.repository,
            tag="main",
            digest=f"sha256:{number:064x}",
            pushed_at=first.pushed_at - timedelta(days=1),
            is_current=False,
            deleting_at=first.pushed_at if number % 2 else None,
            deleted_at=first.pushed_at if number % 2 else None,
        )
        for number in range(500)
    )
    read = []

    def noted(**values):
        read.append(values["instance"])

    post_init.connect(noted, sender=Version)
    try:
        world.push(app, "main", "f" * 64)
    finally:
        post_init.disconnect(noted, sender=Version)
    assert len(read) < 10
    assert Version.objects.get(is_current=True).digest == f"sha256:{'f' * 64}"


def test_a_push_after_the_listing_was_asked_for_is_not_undone_by_it(world, app):
    asked = now()
    world.push(app, "1.0", "b" * 64)
    repository = Version.objects.get().repository
    repository_listed(repository=repository, tags={}, asked_at=asked)
    repository_listed(repository=repository, tags={"1.0": "sha256:" + "a" * 64}, asked_at=asked)
    assert _current() == {"1.0": "sha256:" + "b" * 64}


def test_the_same_tag_pushed_from_many_sides_has_one_current(app):
    at = now()
    for digest in "abab":
        version_pushed(
            repository="shop",
            tag="1.0",
            digest="sha256:" + digest * 64,
            media_type="",
            pushed_by="",
            pushed_at=at,
        )
    assert len(_current()) == 1
