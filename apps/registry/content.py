"""What a manifest and an image's configuration say. Pure: tenants wrote both, so nothing in them is taken on trust.

Sources: opencontainers/image-spec (manifest.md, image-index.md, config.md, "Guidelines for Artifact Usage");
distribution/distribution, docs/spec/manifest-v2-2.md; docker/buildx, docs "attestation-storage"; sigstore/cosign,
specs/SIGNATURE_SPEC.md (signatures have an image's configuration type, and layers of their own type).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.registry.models import Manifest, Part
from apps.registry.models.repositories import DIGEST

Kind = Manifest.Kind

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)
IMAGES = (OCI_MANIFEST, DOCKER_MANIFEST)
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")

#: A manifest may name so many different things; images have less than 130 layers.
MAX_PARTS = 4000
MAX_PLATFORMS = 64
MAX_LABELS = 64
MAX_WORDS = 64
MAX_PORTS = 64
#: Characters of one text that is kept.
MAX_TEXT = 1024
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")

Platform = dict[str, str]


@dataclass(frozen=True, slots=True)
class Named:
    """Something that a manifest names. ``remote``: it says that the bytes are elsewhere."""

    digest: str
    kind: Part.Kind
    remote: bool = False
    #: What an index says of a manifest; None where it says nothing.
    platform: Platform | None = None
    #: It is no image of a platform: an attestation.
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    kind: Kind
    media_type: str
    parts: tuple[Named, ...] = ()
    #: The blob that says for which platform an image is and how it starts.
    config: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    platform: Platform | None = None
    shown: dict[str, Any] = field(default_factory=dict)


def read_manifest(body: bytes, media_type: str) -> Content:
    """What is no manifest that we know is an artifact of nothing. ``media_type`` is what the registry said."""
    raw = _object(body)
    media_type = (_text(raw.get("mediaType")) or media_type).partition(";")[0].strip()[:120]
    if isinstance(raw.get("manifests"), list) and media_type not in IMAGES:
        return Content(Kind.INDEX, media_type, _distinct(_entries(raw["manifests"])))
    parts = _distinct([*_named(raw.get("layers"), Part.Kind.LAYER), *_named(raw.get("blobs"), Part.Kind.LAYER)])
    config = next(iter(_named([raw.get("config")], Part.Kind.CONFIG)), None)
    if config is not None:
        parts = _distinct([*parts, config])
    if config is None or not _is_image(raw):
        return Content(Kind.ARTIFACT, media_type, parts)
    return Content(Kind.IMAGE, media_type, parts, config.digest)


def read_config(body: bytes) -> Config:
    """Of an image: its platform, if it is one, and what is worth showing."""
    raw = _object(body)
    inner = raw.get("config")
    its: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    shown = {
        "labels": _labels(its.get("Labels")),
        "ports": _ports(its.get("ExposedPorts")),
        "user": _text(its.get("User")),
        "entrypoint": _words(its.get("Entrypoint")),
        "command": _words(its.get("Cmd")),
        "stop_signal": _text(its.get("StopSignal"))[:20],
        "created": _text(raw.get("created"))[:40],
    }
    return Config(_platform(raw), {name: value for name, value in shown.items() if value})


def is_nowhere(platform: Mapping[str, str] | None) -> bool:
    """buildx says "unknown" of attestations, which are no image of any platform."""
    return platform is not None and "unknown" in (platform["os"], platform["architecture"])


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _is_image(raw: Mapping[str, Any]) -> bool:
    if raw.get("artifactType") or _text(raw["config"].get("mediaType")) not in _CONFIGS:
        return False
    layers = raw.get("layers")
    types = [_text(one.get("mediaType")) for one in layers or [] if isinstance(one, dict)]
    # An image of no layers is odd, and one.
    return not types or any(one.startswith(_LAYERS) for one in types)


def _named(entries: object, kind: Part.Kind) -> Iterable[Named]:
    for one in entries if isinstance(entries, list) else ():
        digest = one.get("digest") if isinstance(one, dict) else None
        if isinstance(digest, str) and re.fullmatch(DIGEST, digest):
            yield Named(digest, kind, remote=bool(one.get("urls")))


def _entries(entries: list[object]) -> Iterable[Named]:
    for one in entries:
        its = one.get("platform") if isinstance(one, dict) else None
        platform = _platform(its)
        for named in _named([one], Part.Kind.MANIFEST):
            yield Named(named.digest, named.kind, platform=platform, aside=is_nowhere(platform))


def _distinct(parts: Iterable[Named]) -> tuple[Named, ...]:
    found: dict[str, Named] = {}
    for one in parts:
        found.setdefault(one.digest, one)
        if len(found) == MAX_PARTS:
            break
    return tuple(found.values())


def _platform(raw: object) -> Platform | None:
    if not isinstance(raw, dict):
        return None
    words = {name: _text(raw.get(name)).lower() for name in ("os", "architecture", "variant")}
    if not _WORD.fullmatch(words["os"]) or not _WORD.fullmatch(words["architecture"]):
        return None
    if not _WORD.fullmatch(words["variant"]):
        words["variant"] = ""
    return words


def _labels(raw: object) -> dict[str, str]:
    pairs = list(raw.items())[:MAX_LABELS] if isinstance(raw, dict) else []
    return {_text(name)[:128]: _text(value) for name, value in pairs if _text(name)}


def _ports(raw: object) -> list[str]:
    found = [_PORT.fullmatch(name) for name in list(raw)[:MAX_PORTS]] if isinstance(raw, dict) else []
    return sorted({f"{int(one[1])}/{one[2] or 'tcp'}" for one in found if one and 1 <= int(one[1]) <= 65535})


def _words(raw: object) -> list[str]:
    return [_text(one) for one in raw[:MAX_WORDS]] if isinstance(raw, list) else []


def _text(raw: object) -> str:
    """Short, and what PostgreSQL keeps as JSON: no NUL and no half of a surrogate pair."""
    if not isinstance(raw, str):
        return ""
    return raw[:MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()
