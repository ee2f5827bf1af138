"""Image archives, good and hostile, made byte by byte: a library that makes tars would refuse to make most of these."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 512
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
END = bytes(2 * BLOCK)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    target: bytes = b"",
    *,
    size_field: bytes | None = None,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One header with a check sum that is right."""
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0" * 2,
        size_field or b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        magic,
        bytes(64),
        b"0000000\0" * 2,
        prefix.ljust(155, b"\0"),
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    assert len(block) == BLOCK
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def entry(name: str | bytes, content: bytes = b"", kind: bytes = b"0", target: bytes = b"", **more: Any) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return header(raw, len(content), kind, target, **more) + padded(content)


def pax(**records: str | bytes) -> bytes:
    """A PAX header for the entry that follows."""
    content = b"".join(record(key.encode(), value) for key, value in records.items())
    return entry("PaxHeaders/x", content, b"x")


def record(key: bytes, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    rest = b" " + key + b"=" + raw + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def blob_name(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def layer(files: Mapping[str, bytes] | None = None) -> bytes:
    """A layer's tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (files or {"hello": b"world"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def config(*layers: bytes, **more: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest(one) for one in layers]}
    return as_json({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs, **more})


def described(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content), **more}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    return b"".join(entry(name, content) for name, content in files.items()) + END


def docker_save(*layers: bytes, **changed: bytes | None) -> dict[str, bytes]:
    """The files of what docker save wrote before it wrote layouts. ``changed``: config, manifest."""
    layers = layers or (layer(),)
    settings = changed.get("config") or config(*layers)
    files = {f"{number}/layer.tar": one for number, one in enumerate(layers)}
    manifest = changed.get("manifest") or as_json(
        [{"Config": "config.json", "RepoTags": ["shop:1"], "Layers": list(files)}]
    )
    return {**files, "config.json": settings, "manifest.json": manifest}


class Layout:
    """An OCI image layout: what is put in gets its right digest, unless a test says otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"})}

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        self.files[blob_name(content)] = content
        return described(content, media_type, **more)

    def image(
        self,
        *layers: bytes,
        packed: bool = True,
        config_: bytes | None = None,
        config_type: str = OCI_CONFIG,
        layer_type: str = "",
        of_layer: Mapping[str, Any] | None = None,
        described_as: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """``of_layer`` changes what is said of layers, ``described_as`` of the manifest, ``more`` in the manifest."""
        layers = layers or (layer(),)
        kind = layer_type or (f"{OCI_LAYER}+gzip" if packed else OCI_LAYER)
        stored = [gzip.compress(one, mtime=0) if packed else one for one in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(config_ if config_ is not None else config(*layers), config_type),
            "layers": [{**self.blob(one, kind), **(of_layer or {})} for one in stored],
            **more,
        }
        return {**self.blob(as_json(manifest), OCI_MANIFEST), **(described_as or {})}

    def index(self, *manifests: Any, **more: Any) -> dict[str, Any]:
        """An index as a blob."""
        return self.blob(as_json(self._index(*manifests)), OCI_INDEX, **more)

    @staticmethod
    def _index(*manifests: Any) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}

    def tar(self, *manifests: Any, top: bytes | None = None) -> bytes:
        """``top`` is index.json as it stands."""
        return tar_of({**self.files, "index.json": top if top is not None else as_json(self._index(*manifests))})


def zeros_packed(size: int) -> bytes:
    """gzip of so many zeros, made a MiB at a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def zeros_digest(size: int) -> str:
    found = hashlib.sha256()
    for _ in range(size >> 20):
        found.update(bytes(1 << 20))
    return "sha256:" + found.hexdigest()


def make_big(path: Path, size: int) -> None:
    """A ``docker save`` whose one layer holds so many bytes that cannot be packed; written a MiB at a time."""
    with path.open("w+b") as out:
        out.write(header(b"0/layer.tar", 0))
        found, length = hashlib.sha256(), 0

        def put(part: bytes) -> None:
            nonlocal length
            out.write(part)
            found.update(part)
            length += len(part)

        put(header(b"noise", size))
        for _ in range(0, size, 1 << 20):
            put(os.urandom(1 << 20))
        put(END)
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{found.hexdigest()}"]}
        settings = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
        manifest = as_json([{"Config": "config.json", "RepoTags": None, "Layers": ["0/layer.tar"]}])
        out.write(tar_of({"config.json": as_json(settings), "manifest.json": manifest}))
        out.seek(0)
        out.write(header(b"0/layer.tar", length))
