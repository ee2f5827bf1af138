"""Images made by hand and pushed over the registry's API, as docker does it: look first, upload what is missing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@dataclass(frozen=True)
class Image:
    """``blobs``: digest -> its bytes."""

    manifest: bytes
    blobs: dict[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def digests(self) -> set[str]:
        return {self.digest, *self.blobs}


def layer(files: dict[str, bytes]) -> bytes:
    """An uncompressed tar of these files, which may be run."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return body.getvalue()


def busybox() -> bytes:
    path = shutil.which("busybox")
    assert path, "these tests need busybox-static"
    return layer({"bin/busybox": Path(path).read_bytes()})


def image(*layers: bytes, command: tuple[str, ...] = ("/bin/busybox", "sleep", "60")) -> Image:
    packed = [gzip.compress(one, 1, mtime=0) for one in layers]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
        }
    ).encode()

    def named(body: bytes, kind: str) -> dict[str, object]:
        return {"mediaType": kind, "digest": digest_of(body), "size": len(body)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": named(config, CONFIG),
        "layers": [named(one, LAYER) for one in packed],
    }
    return Image(json.dumps(manifest).encode(), {digest_of(one): one for one in (config, *packed)})


def push(api: httpx.Client, repository: str, one: Image, tag: str = "") -> bool:
    """Whether the registry took the manifest; False where it misses a blob."""
    for digest, body in one.blobs.items():
        if api.head(f"/v2/{repository}/blobs/{digest}").status_code == 200:
            continue
        begun = api.post(f"/v2/{repository}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
        done = api.put(place, content=body)
        assert done.status_code == 201, done.text
    path = f"/v2/{repository}/manifests/{tag or one.digest}"
    put = api.put(path, content=one.manifest, headers={"Content-Type": MANIFEST})
    assert put.status_code in {201, 400, 404}, put.text
    return put.status_code == 201


def pulls(api: httpx.Client, repository: str, one: Image) -> bool:
    """Whether all of it can be had, byte by byte."""
    wanted = {f"/v2/{repository}/manifests/{one.digest}": one.digest}
    wanted |= {f"/v2/{repository}/blobs/{digest}": digest for digest in one.blobs}
    return all(digest_of(api.get(path, headers={"Accept": MANIFEST}).content) == wanted[path] for path in wanted)
