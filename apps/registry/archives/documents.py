"""The JSON of an archive: bounded before it is parsed, and never of another shape than was asked for."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from apps.registry.archives.errors import (
    BlobMissing,
    DigestMismatch,
    LayerUnsupported,
    ManifestInvalid,
    NoImage,
    TooMuch,
    shown,
)
from apps.registry.archives.tar import Archive, Member

#: Real ones have some KiB. Parsed, JSON takes up to thirty times its size.
MAX_DOCUMENT = 1 << 20
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """opencontainers/image-spec, descriptor.md."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str]
    platform: dict[str, str]

    @property
    def path(self) -> str:
        return f"blobs/sha256/{self.digest.removeprefix('sha256:')}"

    @property
    def is_attached(self) -> bool:
        """What BuildKit says about an image (provenance, SBOM): it stands beside the images and is none."""
        return self.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Readers differ in which of the two they take.
        raise ValueError("a key stands twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def parsed(content: bytes, what: str) -> Any:
    """Raises ManifestInvalid."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ManifestInvalid(f"{what} is no JSON that can be used.") from None


def content_of(archive: Archive, member: Member, what: str) -> bytes:
    """Raises TooMuch."""
    if member.size > MAX_DOCUMENT:
        raise TooMuch(f"{what} has more than {MAX_DOCUMENT} bytes.")
    return b"".join(archive.chunks(member))


def document(archive: Archive, name: str) -> Any:
    """What the file of this name holds. Raises NoImage where there is none, ManifestInvalid, TooMuch."""
    member = archive.find(name)
    if member is None:
        raise NoImage(f"The archive has no {name}.")
    return parsed(content_of(archive, member, name), name)


def an_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{what} is not an object.")
    return value


def a_list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ManifestInvalid(f"{what} is not a list.")
    return value


def a_digest(value: object, what: str) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise ManifestInvalid(f"{what} is no sha256 digest: {shown(value)}.")
    return value


def _texts(value: object, what: str) -> dict[str, str]:
    """Only what is text: nothing else of them is looked at."""
    if value is None:
        return {}
    return {key: text for key, text in an_object(value, what).items() if isinstance(text, str)}


def descriptor(value: object, what: str) -> Descriptor:
    """Raises ManifestInvalid, LayerUnsupported."""
    found = an_object(value, what)
    size, media_type = found.get("size"), found.get("mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestInvalid(f"{what} has no size.")
    if not isinstance(media_type, str) or not re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,80}", media_type, re.ASCII):
        raise ManifestInvalid(f"{what} has no media type.")
    if found.get("urls"):
        raise LayerUnsupported(f"{what} is to be fetched from elsewhere. An archive must hold all of its image.")
    return Descriptor(
        media_type=media_type,
        digest=a_digest(found.get("digest"), what),
        size=size,
        annotations=_texts(found.get("annotations"), what),
        platform=_texts(found.get("platform"), what),
    )


def member_of(archive: Archive, found: Descriptor, what: str) -> Member:
    """Raises BlobMissing, DigestMismatch where it has another size than is said."""
    member = archive.find(found.path)
    if member is None:
        raise BlobMissing(f"{what} is named and not in the archive: {found.digest}.")
    if member.size != found.size:
        raise DigestMismatch(f"{what} has another size than is said of it: {found.digest}.")
    return member


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def blob_document(archive: Archive, found: Descriptor, what: str) -> tuple[bytes, dict[str, Any]]:
    """A manifest, an index or a configuration, as it stands and as an object. Its digest is right."""
    content = content_of(archive, member_of(archive, found, what), what)
    if digest_of(content) != found.digest:
        raise DigestMismatch(f"{what} is not what its digest says: {found.digest}.")
    return content, an_object(parsed(content, what), what)
