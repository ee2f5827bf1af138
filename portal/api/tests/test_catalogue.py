"""The registry's contents through the API: what is there, how large, where it runs, and deleting it."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from apps.core.clock import now
from apps.deployments.services.rollouts import rollout_start
from apps.registry.models import Manifest, Part, Version
from apps.registry.services.descriptions import Description, PartOf, describe_claimed, manifest_described
from apps.tenants.services.tokens import token_create

API = "/api/v1/apps/shop/versions/"
LABELS = {"org.opencontainers.image.source": "https://example.com"}
AMD = {"os": "linux", "architecture": "amd64", "variant": ""}
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def _client(user):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token_create(user=user, name='test')[1]}")
    return client


def _part(letter, size, kind=Part.Kind.LAYER):
    return PartOf(f"sha256:{letter * 64}", kind, size)


def _describe(version, *parts, platform=AMD, kind="image"):
    manifest = Manifest.objects.get(repository_id=version.repository_id, digest=version.digest)
    assert describe_claimed(manifest_id=manifest.pk)
    assert manifest_described(
        manifest=manifest,
        description=Description(
            kind=kind,
            media_type="application/vnd.oci.image.manifest.v1+json",
            own_bytes=10,
            parts=parts,
            platforms=[platform],
            config={"labels": LABELS, "ports": ["8080/tcp"]},
        ),
    )


@pytest.fixture
def app(world):
    """1.0 runs; latest names the same; 2.0 shares a layer; 3.0 was not read yet."""
    world.host()
    app = world.app("shop")
    first = world.push(app, "1.0", "a" * 64)
    world.push(app, "latest", "a" * 64)
    second = world.push(app, "2.0", "b" * 64)
    world.push(app, "3.0", "c" * 64)
    _describe(first, _part("1", 1000), _part("2", 200), _part("0", 5, Part.Kind.CONFIG))
    _describe(second, _part("1", 1000), _part("3", 70), platform=ARM)
    return app


def test_a_list_says_what_each_version_is_and_where_it_runs(world, app, loop):
    rollout_start(app=app, version="1.0", by=world.bob, instances=2)
    loop.settle()
    rows = {one["tag"]: one for one in _client(world.vera).get(API).json()["results"]}
    assert list(rows) == ["3.0", "2.0", "latest", "1.0"]
    one = rows["1.0"]
    assert (one["size_bytes"], one["platforms"], one["kind"]) == (1215, ["linux/amd64"], "image")
    assert (one["also"], one["pushed_by"], one["current"]) == (["latest"], "alice", True)
    assert one["in_use"] == [{"app": "shop", "release": 1, "instances": 2, "reasons": ["instances", "traffic"]}]
    assert rows["latest"]["in_use"] == []
    assert rows["2.0"]["platforms"] == ["linux/arm64/v8"]
    assert (rows["3.0"]["kind"], rows["3.0"]["size_bytes"], rows["3.0"]["platforms"]) == ("unknown", None, [])


def test_the_list_is_paged_and_takes_as_many_queries_for_many_as_for_few(world, app, django_assert_max_num_queries):
    client = _client(world.alice)
    page = client.get(f"{API}?page_size=3").json()
    assert len(page["results"]) == 3
    assert [one["tag"] for one in client.get(page["next"]).json()["results"]] == ["1.0"]
    for number in range(40):
        world.push(app, f"4.{number}", f"{number:064x}")
    with django_assert_max_num_queries(14):
        assert len(client.get(API).json()["results"]) == 44


def test_what_a_tag_named_before_is_listed_when_asked_for(world, app):
    world.push(app, "1.0", "d" * 64)
    client = _client(world.alice)
    assert len(client.get(API).json()["results"]) == 4
    rows = client.get(f"{API}?replaced=true").json()["results"]
    assert [(one["tag"], one["digest"][7]) for one in rows if not one["current"]] == [("1.0", "a")]
    old = client.get(f"{API}1.0/?digest=sha256:{'a' * 64}").json()
    assert (old["current"], old["size_bytes"]) == (False, 1215)


def test_one_version_shows_its_layers_and_what_it_says_of_itself(world, app):
    found = _client(world.vera).get(f"{API}1.0/").json()
    assert [(one["digest"][7], one["size_bytes"]) for one in found["layers"]] == [("1", 1000), ("2", 200)]
    assert found["config"] == {
        "labels": LABELS,
        "ports": ["8080/tcp"],
        "user": "",
        "entrypoint": [],
        "command": [],
        "stop_signal": "",
        "created": "",
    }
    assert found["images"] == []
    assert _client(world.vera).get(f"{API}3.0/").json()["layers"] == []


def test_an_index_shows_its_images(world, app):
    index = world.push(app, "multi", "e" * 64)
    _describe(index, _part("a", 10, Part.Kind.MANIFEST), _part("b", 10, Part.Kind.MANIFEST), kind="index")
    found = _client(world.vera).get(f"{API}multi/").json()
    assert [(one["kind"], one["platforms"]) for one in found["images"]] == [
        ("image", ["linux/amd64"]),
        ("image", ["linux/arm64/v8"]),
    ]
    assert set(found["platforms"]) == {"linux/amd64", "linux/arm64/v8"}


@pytest.mark.parametrize("tag", ["9.9", "..", "%2e%2e", "x" * 300, "1.0%00", "1.0/../2.0"])
def test_a_version_that_is_none_gets_404(world, app, tag):
    client = _client(world.alice)
    assert client.get(f"{API}{tag}/").status_code == 404
    assert client.delete(f"{API}{tag}/").status_code == 404


def test_deleting_what_runs_gets_409_with_its_users(world, app, loop):
    rollout_start(app=app, version="1.0", by=world.bob)
    loop.settle()
    client = _client(world.alice)
    reply = client.delete(f"{API}1.0/")
    assert (reply.status_code, reply.json()["code"]) == (409, "versions.in_use")
    assert reply.json()["users"] == [{"app": "shop", "release": 1, "instances": 1, "reasons": ["instances", "traffic"]}]
    assert client.delete(f"{API}latest/").status_code == 204, "another tag of the same image is only a tag"
    assert Manifest.objects.get(digest=f"sha256:{'a' * 64}").deleting_at is None


def test_deleting_takes_it_from_the_list_at_once(world, app):
    client = _client(world.alice)
    for who in (world.bob, world.vera):
        assert _client(who).delete(f"{API}2.0/").status_code == 403
    assert client.delete(f"{API}2.0/").status_code == 204
    assert client.get(f"{API}2.0/").status_code == 404
    assert client.delete(f"{API}2.0/").status_code == 404
    assert "2.0" not in [one["tag"] for one in client.get(f"{API}?replaced=true").json()["results"]]
    assert Version.objects.get(tag="2.0").deleting_at <= now()


def test_repositories_are_listed_with_each_blob_counted_once(world, app, loop):
    world.app("theirs", tenant=world.rival, by=world.charlie)
    world.app("empty")
    rollout_start(app=app, version="2.0", by=world.bob)
    (empty, shop) = _client(world.vera).get("/api/v1/repositories/").json()["results"]
    assert (empty["name"], empty["size_bytes"], empty["versions"], empty["in_use"]) == ("empty", 0, 0, [])
    assert (shop["name"], shop["tenant"], shop["public"]) == ("shop", "acme", False)
    assert (shop["size_bytes"], shop["versions"]) == (1000 + 200 + 5 + 70 + 2 * 10, 4)
    assert [(one["tag"], one["release"], one["instances"]) for one in shop["in_use"]] == [("2.0", 1, 1)]


def test_of_other_tenants_no_repository_is_seen(world, app):
    client = _client(world.charlie)
    assert client.get("/api/v1/repositories/").json()["results"] == []
    assert client.get("/api/v1/repositories/?tenant=acme").json()["results"] == []
    assert len(_client(world.alice).get("/api/v1/repositories/?tenant=acme").json()["results"]) == 1
    assert _client(world.alice).get("/api/v1/repositories/?tenant=rival").json()["results"] == []


def test_deploy_on_push_is_switched_by_patch(world, app):
    client = _client(world.bob)
    reply = client.patch("/api/v1/apps/shop/", {"deploy_on_push": "v*"})
    assert (reply.status_code, reply.json()["deploy_on_push"], reply.json()["deploy_on_push_by"]) == (200, "v*", "bob")
    assert client.get("/api/v1/apps/shop/").json()["deploy_on_push"] == "v*"
    reply = client.patch("/api/v1/apps/shop/", {"deploy_on_push": "v[1]"})
    assert (reply.status_code, reply.json()["code"]) == (400, "apps.pattern_invalid")
    assert client.patch("/api/v1/apps/shop/", {"deploy_on_push": ""}).json()["deploy_on_push_by"] is None
    assert client.patch("/api/v1/apps/shop/", {}).status_code == 400
    assert _client(world.vera).patch("/api/v1/apps/shop/", {"deploy_on_push": "*"}).status_code == 403
