"""Distribution 2.8's answers about one repository, "shop", out of memory: real digests, and faults at will."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx

from apps.registry.content import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


class Shop:
    """``deletes_tags``: as distribution 3 does."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.tags: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.deletes_tags = False
        self.status: int | None = None
        #: Whether it answers to nothing at all as ``status`` says, and not only of the repository.
        self.is_away = False
        self.before: Any = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path))
        if self.before is not None:
            self.before(request)
        if self.status is not None and (self.is_away or request.url.path != "/v2/"):
            return httpx.Response(self.status)
        if request.url.path == "/v2/":
            return httpx.Response(401)
        what, _, name = request.url.path.removeprefix("/v2/shop/").partition("/")
        if what == "tags":
            return httpx.Response(200, json={"name": "shop", "tags": sorted(self.tags) or None})
        if what == "blobs":
            found = self.blobs.get(name)
            if found is None:
                return httpx.Response(404)
            return httpx.Response(200, content=found, headers={"Content-Length": str(len(found))})
        if request.method == "PUT":
            put = self.manifest(request.content, request.headers["Content-Type"], tag=name)
            return httpx.Response(201, headers={"Docker-Content-Digest": put})
        if request.method == "DELETE" and name in self.tags:
            if not self.deletes_tags:
                return httpx.Response(400)
            del self.tags[name]
            return httpx.Response(202)
        digest = self.tags.get(name, name)
        if digest not in self.manifests:
            return httpx.Response(404)
        if request.method == "DELETE":
            del self.manifests[digest]
            self.tags = {tag: one for tag, one in self.tags.items() if one != digest}
            return httpx.Response(202)
        body, media_type = self.manifests[digest]
        return httpx.Response(200, content=body, headers={"Docker-Content-Digest": digest, "Content-Type": media_type})

    def blob(self, body: bytes) -> dict[str, Any]:
        self.blobs[digest_of(body)] = body
        return {"digest": digest_of(body), "size": len(body)}

    def manifest(self, body: bytes | dict[str, Any], media_type: str = OCI_MANIFEST, tag: str = "") -> str:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        digest = digest_of(content)
        self.manifests[digest] = (content, media_type)
        if tag:
            self.tags[tag] = digest
        return digest

    def image(
        self,
        *layers: bytes,
        tag: str = "",
        config: Any = None,
        layer: str = LAYER,
        config_type: str = CONFIG,
        media_type: str = OCI_MANIFEST,
        **extra: Any,
    ) -> str:
        raw = config if isinstance(config, bytes) else json.dumps(config or {"os": "linux", "architecture": "amd64"})
        its = {"mediaType": config_type, **self.blob(raw if isinstance(raw, bytes) else raw.encode())}
        named = [{"mediaType": layer, **self.blob(one)} for one in layers]
        body = {"schemaVersion": 2, "mediaType": media_type, "config": its, "layers": named, **extra}
        return self.manifest(body, media_type, tag)

    def index(self, *entries: dict[str, Any], tag: str = "", **extra: Any) -> str:
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **extra}
        return self.manifest(body, OCI_INDEX, tag)


def entry(digest: str, os: str = "", architecture: str = "", **extra: str) -> dict[str, Any]:
    platform = {"platform": {"os": os, "architecture": architecture, **extra}} if os else {}
    return {"mediaType": DOCKER_MANIFEST, "digest": digest, "size": 3, **platform}
