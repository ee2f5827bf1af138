"""Copies between two real registries: sign-in, several platforms, what is copied once, and a cache in between."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.core.clock import now
from apps.deployments.services.imports import app_import
from apps.registry.base_images import base_image
from apps.registry.building import push
from apps.registry.client import reading
from apps.registry.content import DOCKER_MANIFEST
from apps.registry.importing import import_work
from apps.registry.models import Import, Version
from apps.registry.services.external import external_create
from apps.registry.tests.registry import Shop, entry
from apps.registry.trying import external_try
from stack import probes
from stack.environment import Environment
from stack.parts.registry import registry
from stack.parts.registry_cache import registry_cache
from stack.runner import Stack
from tests.elsewhere import PASSWORD, USERNAME, elsewhere

pytestmark = [pytest.mark.real, pytest.mark.django_db]


def _pushed(api: httpx.Client, held: Shop) -> None:
    for digest, body in held.blobs.items():
        begun = api.post("/v2/team/app/blobs/uploads/")
        begun.raise_for_status()
        place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
        assert api.put(place, content=body).status_code == 201
    for digest, (body, kind) in held.manifests.items():
        names = [tag for tag, one in held.tags.items() if one == digest] or [digest]
        for name in names:
            put = api.put(f"/v2/team/app/manifests/{name}", content=body, headers={"Content-Type": kind})
            assert put.status_code == 201, put.text


@pytest.fixture
def there(tmp_path: Path, settings: Any) -> Iterator[Environment]:
    """Theirs, with a user, and ours, without tokens; both over TLS."""
    ours, theirs = Environment.open(tmp_path / "ours"), Environment.open(tmp_path / "theirs")
    with Stack(theirs.directory, [elsewhere(theirs)]), Stack(ours.directory, [registry(ours, token_auth=False)]):
        settings.REGISTRY_URL = f"https://127.0.0.1:{ours.ports['registry']}"
        settings.REGISTRY_CA = str(ours.registry_authority.pair.cert)
        settings.GUARD_CA = str(theirs.registry_authority.pair.cert)
        settings.GUARD_ALLOW = ["127.0.0.1/32"]
        yield theirs


def _api(url: str, ca: str, **values: Any) -> httpx.Client:
    return httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=ca), trust_env=False, **values)


def test_an_image_of_a_real_registry_is_copied_for_our_hosts(
    there: Environment, world: Any, token_key: Any, settings: Any
) -> None:
    place = f"127.0.0.1:{there.ports['registry']}"
    held = Shop()
    mine, other = held.image(b"amd64 " * 500_000), held.image(b"arm64")
    held.index(entry(mine, "linux", "amd64"), entry(other, "linux", "arm64"), tag="1.0")
    # The registry wants to know exactly how large each part is.
    body, kind = held.manifests.pop(held.tags["1.0"])
    index = json.loads(body)
    for one in index["manifests"]:
        one["size"] = len(held.manifests[one["digest"]][0])
        one["mediaType"] = held.manifests[one["digest"]][1]
    held.manifest(index, kind, tag="1.0")
    with _api(f"https://{place}", settings.GUARD_CA, auth=(USERNAME, PASSWORD)) as api:
        _pushed(api, held)

    world.host(os="linux", architecture="amd64")
    app = world.app("shop")

    def copied(tag: str) -> Import:
        made = app_import(app=app, source=f"{place}/team/app:1.0", tag=tag, by=world.alice)
        import_work(made.pk)
        made.refresh_from_db()
        return made

    assert copied("early").code == "imports.source_denied"
    external_create(tenant=world.acme, name="there", host=place, username=USERNAME, password=PASSWORD, by=world.alice)
    assert external_try(tenant=world.acme, name="there", by=world.alice).test_code == ""
    made = copied("1.0")
    assert (made.status, made.code, made.digest) == ("done", "", mine)
    with _api(settings.REGISTRY_URL, settings.REGISTRY_CA) as ours:
        head = ours.head("/v2/shop/manifests/1.0", headers={"Accept": held.manifests[mine][1]})
        assert head.headers["Docker-Content-Digest"] == mine
        assert ours.get("/v2/shop/tags/list").json()["tags"] == ["1.0"]
    settings.GUARD_CA = ""
    untrusted = copied("2.0")
    assert (untrusted.status, untrusted.attempts) == ("waiting", 1)
    assert untrusted.retry_at is not None
    assert untrusted.retry_at > now()


def test_a_base_image_is_pushed_for_all(there: Environment, world: Any, token_key: Any, tmp_path: Path) -> None:
    """What podman lays out, here by hand: building one takes a minute and a mirror."""
    held = Shop()
    digest = held.image(b"redis", media_type=DOCKER_MANIFEST, tag="7.0")
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_bytes(held.manifests[digest][0])
    for name, body in held.blobs.items():
        (out / name.removeprefix("sha256:")).write_bytes(body)
    for _ in range(2):
        assert push(base_image("redis"), "7.0", out) == digest
    version = Version.objects.get(repository__name="base-redis", is_current=True)
    assert (version.tag, version.digest, version.repository.is_public) == ("7.0", digest, True)
    with reading("base-redis", token="unused") as reader:
        assert reader.manifest(digest) is not None


def test_a_cache_stands_in_for_its_upstream(tmp_path: Path, world: Any, token_key: Any, settings: Any) -> None:
    ours, theirs = Environment.open(tmp_path / "ours"), Environment.open(tmp_path / "theirs")
    upstream = registry(theirs, token_auth=False)
    # Plain, since the cache trusts the system's authorities only.
    config = theirs.part_directory("registry") / "config.yml"

    def plain() -> None:
        upstream.prepare()
        said = json.loads(config.read_text())
        del said["http"]["tls"]
        config.write_text(json.dumps(said))

    port = theirs.ports["registry"]
    ready = replace(upstream, prepare=plain, ready=lambda: probes.tcp(port))
    with (
        Stack(theirs.directory, [ready]),
        Stack(
            ours.directory,
            [registry(ours, token_auth=False), registry_cache(ours, upstream=f"http://127.0.0.1:{port}")],
        ),
    ):
        settings.REGISTRY_URL = f"https://127.0.0.1:{ours.ports['registry']}"
        settings.REGISTRY_CA = str(ours.registry_authority.pair.cert)
        settings.REGISTRY_CACHE_OF = "upstream.example"
        settings.REGISTRY_CACHE_URL = f"http://127.0.0.1:{ours.ports['registry_cache']}"
        held = Shop()
        digest = held.image(b"layer", tag="1.0")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api:
            _pushed(api, held)
        made = app_import(app=world.app("shop"), source="upstream.example/team/app:1.0", tag="", by=world.alice)
        import_work(made.pk)
        made.refresh_from_db()
        assert (made.status, made.code, made.digest) == ("done", "", digest)
        assert "team/app" in httpx.get(f"{settings.REGISTRY_CACHE_URL}/v2/_catalog").json()["repositories"]
