"""A real registry with the portal of this process as its token server, and images to push that are made by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stack.environment import Environment

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@contextmanager
def portal_thread(port: int) -> Iterator[None]:
    """Django's views at the port, on the test's database."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing: each line would go to the test's output."""

    server = ThreadedWSGIServer(("127.0.0.1", port), Quiet)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def configure(settings: Any, env: Environment) -> None:
    """This process as the portal of the environment."""
    settings.REGISTRY_URL = f"https://127.0.0.1:{env.ports['registry']}"
    settings.REGISTRY_CA = str(env.registry_authority.pair.cert)
    settings.REGISTRY_PUBLIC = settings.REGISTRY_FOR_HOSTS = f"localhost:{env.ports['registry']}"
    settings.REGISTRY_TOKEN_KEY = str(env.token_pair.key)
    settings.REGISTRY_TOKEN_CERT = str(env.token_pair.cert)
    settings.REGISTRY_NOTIFICATION_SECRET = env.secrets["registry_notifications"]


def http(env: Environment, token: str = "", url: str = "") -> httpx.Client:
    trusted = ssl.create_default_context(cafile=str(env.registry_authority.pair.cert))
    headers = {"Accept": f"{MANIFEST}, {INDEX}"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    base = url or f"https://127.0.0.1:{env.ports['registry']}"
    return httpx.Client(base_url=base, verify=trusted, headers=headers, trust_env=False, timeout=10)


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def blob_put(client: httpx.Client, repository: str, body: bytes) -> str:
    begun = client.post(f"/v2/{repository}/blobs/uploads/")
    assert begun.status_code == 202, begun.text
    place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest_of(body)})
    put = client.put(place, content=body)
    assert put.status_code == 201, put.text
    return digest_of(body)


def image_put(client: httpx.Client, repository: str, tag: str, text: bytes = b"layer") -> dict[str, str]:
    """A whole image over the API. Returns its digests: manifest, config, layer."""
    layer = blob_put(client, repository, text)
    config_body = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}}
    )
    config = blob_put(client, repository, config_body.encode())
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": len(config_body)},
            "layers": [{"mediaType": LAYER, "digest": layer, "size": len(text)}],
        }
    ).encode()
    put = client.put(f"/v2/{repository}/manifests/{tag}", content=body, headers={"Content-Type": MANIFEST})
    assert put.status_code == 201, put.text
    return {"manifest": put.headers["Docker-Content-Digest"], "config": config, "layer": layer}


def layout(directory: Path, *, text: str = "one", architectures: Sequence[str] = ("amd64",)) -> Path:
    """An OCI layout with one image (an index of several for more architectures), under the name ``image``."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(body: bytes, kind: str, **more: Any) -> dict[str, Any]:
        (blobs / hashlib.sha256(body).hexdigest()).write_bytes(body)
        return {"mediaType": kind, "digest": digest_of(body), "size": len(body), **more}

    images = []
    for architecture in architectures:
        layer_body = _tar(f"{text} {architecture}")
        # Compressed, or clients would do that on the way and the digests would change.
        layer = put(gzip.compress(layer_body, mtime=0), LAYER)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer_body)]},
        }
        described = put(json.dumps(config).encode(), CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [layer]}
        platform = {"architecture": architecture, "os": "linux"}
        images.append(put(json.dumps(manifest).encode(), MANIFEST, platform=platform))
    top = images[0]
    if len(images) > 1:
        top = put(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": images}).encode(), INDEX)
    named = {**top, "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def _tar(text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("hello")
        data = text.encode()
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Told:
    """What a client's command came to."""

    code: int
    text: str
    #: Its standard output alone.
    out: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0


def tell(*argv: str, stdin: str = "", env: dict[str, str] | None = None, timeout_s: float = 60) -> Told:
    """A client's command, to its end, whatever that is."""
    done = subprocess.run(
        argv,
        input=stdin,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Told(done.returncode, done.stdout + done.stderr, done.stdout)
