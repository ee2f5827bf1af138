"""Purging a repository of a real registry: nothing that can be named is left."""

from __future__ import annotations

import hashlib
import json
import ssl

import httpx
import pytest

from apps.registry.client import purge, tags_of
from stack.environment import Environment
from stack.parts.registry import registry
from stack.runner import Stack

pytestmark = pytest.mark.real
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def _digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.fixture
def api(tmp_path, settings):
    env = Environment.open(tmp_path)
    with Stack(env.directory, [registry(env, token_auth=False)]):
        settings.REGISTRY_URL = f"https://127.0.0.1:{env.ports['registry']}"
        settings.REGISTRY_CA = str(env.registry_authority.pair.cert)
        trusted = ssl.create_default_context(cafile=settings.REGISTRY_CA)
        with httpx.Client(base_url=settings.REGISTRY_URL, verify=trusted, trust_env=False) as client:
            yield client


def _blob(api, body):
    digest = _digest(body)
    begun = api.post("/v2/shop/blobs/uploads/")
    place = httpx.URL(begun.headers["Location"])
    assert api.put(place.copy_merge_params({"digest": digest}), content=body).status_code == 201
    return {"mediaType": "application/octet-stream", "digest": digest, "size": len(body)}


def _manifest(api, name, body, kind=MANIFEST):
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, **body}).encode()
    put = api.put(f"/v2/shop/manifests/{name or _digest(content)}", content=content, headers={"Content-Type": kind})
    assert put.status_code == 201, put.text
    return {"mediaType": kind, "digest": put.headers["Docker-Content-Digest"], "size": len(content)}


def test_every_manifest_and_link_is_gone_also_what_no_tag_names_any_more(api):
    blobs = [_blob(api, f"blob {number}".encode()) for number in range(4)]
    old = _manifest(api, "1.0", {"config": blobs[0], "layers": [blobs[1]]})
    new = _manifest(api, "1.0", {"config": blobs[0], "layers": [blobs[2]]})
    child = _manifest(api, "", {"config": blobs[0], "layers": [blobs[3]]})
    index = _manifest(api, "multi", {"manifests": [child]}, kind=INDEX)
    assert set(tags_of("shop", token="unused").tags) == {"1.0", "multi"}
    assert purge("shop", [old["digest"]], token="unused") is True
    assert tags_of("shop", token="unused").tags == {}
    for one in (old, new, child, index):
        assert api.get(f"/v2/shop/manifests/{one['digest']}").status_code == 404
    for one in blobs:
        assert api.get(f"/v2/shop/blobs/{one['digest']}").status_code == 404
    assert purge("shop", [old["digest"]], token="unused") is True, "again does no harm"
    assert purge("never-was", [], token="unused") is True
