"""Which image an archive holds, and whether it is what it says: everything is checked before anything is pushed.

Two forms: an OCI image layout (opencontainers/image-spec, image-layout.md), and what ``docker save`` wrote before that
(moby/moby, image/spec/v1.2.md: manifest.json beside configurations and layers). A new ``docker save`` is both; then it
is read as a layout. Layers are hashed, and unpacked only as a stream, to compare with the configuration's ``diff_ids``:
a layer that is not what its image says would fail on every host. What stands in them is never looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from apps.registry.archives import documents as docs
from apps.registry.archives.documents import Descriptor
from apps.registry.archives.errors import (
    BlobMissing,
    DigestMismatch,
    EntryRefused,
    LayersMismatch,
    LayerUnsupported,
    ManifestInvalid,
    NoImage,
    NotAnImage,
    SeveralImages,
    TooMuch,
    shown,
)
from apps.registry.archives.tar import Archive, Member, plain_name, read_contents
from apps.registry.archives.unpacking import Budget, gunzip, packing_of

#: Docker's own limit (moby/moby, layer/layer_store.go).
MAX_LAYERS = 125
#: Of one index: images for as many platforms, and what is attached to them.
MAX_MANIFESTS = 32
#: Media type -> whether it is packed with gzip.
LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": False,
    "application/vnd.oci.image.layer.v1.tar+gzip": True,
    "application/vnd.docker.image.rootfs.diff.tar": False,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": True,
}

Pace = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    member: Member


@dataclass(frozen=True, slots=True)
class Manifest:
    digest: str
    media_type: str
    body: bytes


@dataclass(slots=True)
class Plan:
    """What is to be pushed, in this order: each blob once, then the manifests; the last one gets the tag."""

    archive: Archive
    blobs: dict[str, Blob] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def root(self) -> Manifest:
        return self.manifests[-1]

    def chunks(self, blob: Blob) -> Iterator[bytes]:
        return self.archive.chunks(blob.member)


def examine(file: BinaryIO, size: int, *, unpacked: int, pace: Pace = lambda n: None) -> Plan:
    """What to push of an archive that is not compressed as a whole. Raises ArchiveRefused of many kinds.

    ``unpacked``: so many bytes may come out of its compressed layers together. ``pace`` is called with bytes that were
    read, at least once for each MiB, and may raise to stop.
    """
    archive = read_contents(file, size, pace)
    return _Examination(archive, Budget(unpacked), pace).run()


class _Examination:
    def __init__(self, archive: Archive, budget: Budget, pace: Pace) -> None:
        self.archive = archive
        self.budget = budget
        self.pace = pace
        self.plan = Plan(archive)
        #: What a layer's bytes and what they unpack to hash to: an image may name one layer many times.
        self.known: dict[tuple[Member, bool], tuple[str, str]] = {}

    def run(self) -> Plan:
        if self.archive.find("index.json") is not None:
            self._layout()
        elif self.archive.find("manifest.json") is not None:
            self._docker()
        else:
            raise NoImage(
                "The archive holds no image: neither index.json nor manifest.json is at its top. "
                "Make it with docker save, podman save or skopeo copy, and send no archive inside of another."
            )
        return self.plan

    # OCI image layout -----------------------------------------------------------------------------------------

    def _layout(self) -> None:
        layout = docs.an_object(docs.document(self.archive, "oci-layout"), "oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ManifestInvalid("oci-layout names a version that is not known here.")
        index = docs.an_object(docs.document(self.archive, "index.json"), "index.json")
        # One image with several tags stands there several times.
        images = {one.digest: one for one in self._children(index, "index.json")}
        if not images:
            raise NoImage("index.json names no image.")
        if len(images) > 1:
            raise SeveralImages(
                f"The archive holds {len(images)} images. Save one image, with one name, and send that."
            )
        (image,) = images.values()
        if image.media_type in docs.INDEXES:
            self._index(image)
        else:
            self._image(image)

    @staticmethod
    def _children(index: dict[str, Any], what: str) -> list[Descriptor]:
        if index.get("schemaVersion") != 2:
            raise ManifestInvalid(f"{what} is of a version that is not known here.")
        listed = docs.a_list(index.get("manifests"), f"{what}: manifests")
        if len(listed) > MAX_MANIFESTS:
            raise TooMuch(f"{what} names more than {MAX_MANIFESTS} manifests.")
        return [docs.descriptor(one, f"A manifest of {what}") for one in listed]

    def _index(self, found: Descriptor) -> None:
        """An image for several platforms: as a whole, or the only one of its images that the archive holds.

        ``docker save`` of an image that was pulled for one platform names the others too, without their content.
        """
        body, index = docs.blob_document(self.archive, found, "The index")
        self._same_type(found, index)
        children = self._children(index, "the index")
        if any(one.media_type in docs.INDEXES for one in children):
            raise ManifestInvalid("The index names another index.")
        if not children:
            raise NoImage("The index names no image.")
        here = [one for one in children if self._complete(one)]
        images = [one for one in here if not one.is_attached]
        if len(here) == len(children) and images:
            for one in here:
                self._image(one)
            self.plan.manifests.append(_named(found, body))
        elif len(images) == 1:
            self._image(images[0])
        elif images:
            raise SeveralImages(
                f"The archive holds the image for {len(images)} platforms, but not for all that its index names. "
                "Save it for one platform, or for all."
            )
        else:
            raise BlobMissing("The archive names images for several platforms and holds none of them.")

    def _complete(self, found: Descriptor) -> bool:
        if self.archive.find(found.path) is None:
            return False
        _, manifest = docs.blob_document(self.archive, found, "A manifest")
        layers = docs.a_list(manifest.get("layers"), "A manifest's layers")
        if len(layers) > MAX_LAYERS:
            raise TooMuch(f"An image has more than {MAX_LAYERS} layers.")
        parts = [docs.descriptor(one, "A part of a manifest") for one in [manifest.get("config"), *layers]]
        return all(self.archive.find(part.path) is not None for part in parts)

    def _image(self, found: Descriptor) -> None:
        if found.media_type not in docs.MANIFESTS:
            raise NotAnImage(f"The archive holds something that is no image: {shown(found.media_type)}.")
        body, manifest = docs.blob_document(self.archive, found, "The image's manifest")
        self._same_type(found, manifest)
        if manifest.get("schemaVersion") != 2:
            raise ManifestInvalid("The image's manifest is of a version that is not known here.")
        if manifest.get("artifactType"):
            raise NotAnImage("The archive holds an artifact that no container can be made of.")
        config = docs.descriptor(manifest.get("config"), "The image's configuration")
        if config.media_type not in docs.CONFIGS:
            raise NotAnImage(f"The archive holds something that is no image: {shown(config.media_type)}.")
        listed = docs.a_list(manifest.get("layers"), "The image's layers")
        if len(listed) > MAX_LAYERS:
            raise TooMuch(f"The image has more than {MAX_LAYERS} layers.")
        layers = [docs.descriptor(one, "A layer") for one in listed]
        content, parsed = docs.blob_document(self.archive, config, "The image's configuration")
        if found.is_attached:
            self._attached(layers)
        else:
            self._layers(layers, _diff_ids(parsed))
        self._blob(docs.digest_of(content), docs.member_of(self.archive, config, "The image's configuration"))
        self.plan.manifests.append(_named(found, body))

    def _layers(self, layers: list[Descriptor], diff_ids: list[str]) -> None:
        _counts_agree(len(layers), len(diff_ids))
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            packed = LAYERS.get(layer.media_type)
            if packed is None:
                raise LayerUnsupported(
                    f"A layer is of a kind that is not taken: {shown(layer.media_type)}. "
                    "Save the image with layers that are packed with gzip, or not at all."
                )
            member = docs.member_of(self.archive, layer, "A layer")
            if (self._packing(member) == "gzip") is not packed:
                raise LayerUnsupported(f"A layer is packed in another way than is said of it: {layer.digest}.")
            digest, unpacked = self._hashed(member, packed=packed)
            if digest != layer.digest:
                raise DigestMismatch(f"A layer is not what its digest says: {layer.digest}.")
            if unpacked != diff_id:
                raise LayersMismatch(f"A layer is not the one that the configuration means: {diff_id}.")
            self._blob(digest, member)

    def _attached(self, layers: list[Descriptor]) -> None:
        """They are data about an image, which no engine unpacks."""
        for layer in layers:
            member = docs.member_of(self.archive, layer, "An attachment")
            digest, _ = self._hashed(member, packed=False)
            if digest != layer.digest:
                raise DigestMismatch(f"An attachment is not what its digest says: {layer.digest}.")
            self._blob(digest, member)

    @staticmethod
    def _same_type(found: Descriptor, body: dict[str, Any]) -> None:
        if body.get("mediaType", found.media_type) != found.media_type:
            raise ManifestInvalid("A manifest says of itself that it is something else than its index says.")

    # docker save before 25 ------------------------------------------------------------------------------------

    def _docker(self) -> None:
        listed = docs.a_list(docs.document(self.archive, "manifest.json"), "manifest.json")
        if not listed:
            raise NoImage("manifest.json names no image.")
        if len(listed) > 1:
            raise SeveralImages(
                f"The archive holds {len(listed)} images. Save one image, with one name, and send that."
            )
        image = docs.an_object(listed[0], "The image in manifest.json")
        config = self._file(image.get("Config"), "The image's configuration")
        content = docs.content_of(self.archive, config, "The image's configuration")
        diff_ids = _diff_ids(docs.an_object(docs.parsed(content, "The image's configuration"), "The configuration"))
        names = docs.a_list(image.get("Layers"), "The image's layers")
        if len(names) > MAX_LAYERS:
            raise TooMuch(f"The image has more than {MAX_LAYERS} layers.")
        _counts_agree(len(names), len(diff_ids))
        layers = []
        for name, diff_id in zip(names, diff_ids, strict=True):
            member = self._file(name, "A layer")
            packing = self._packing(member)
            digest, unpacked = self._hashed(member, packed=bool(packing))
            if unpacked != diff_id:
                raise LayersMismatch(f"A layer is not the one that the configuration means: {diff_id}.")
            self._blob(digest, member)
            kind = f"{docs.OCI_LAYER}+gzip" if packing else docs.OCI_LAYER
            layers.append({"mediaType": kind, "digest": digest, "size": member.size})
        digest = docs.digest_of(content)
        self._blob(digest, config)
        self.plan.manifests.append(
            _manifest_of({"mediaType": docs.OCI_CONFIG, "digest": digest, "size": len(content)}, layers)
        )

    def _file(self, name: object, what: str) -> Member:
        if not isinstance(name, str):
            raise ManifestInvalid(f"{what} is not named in manifest.json.")
        try:
            member = self.archive.find(plain_name(name))
        except EntryRefused:
            raise ManifestInvalid(f"{what} has a name that leads elsewhere: {shown(name)}.") from None
        if member is None:
            raise BlobMissing(f"{what} is named and not in the archive: {shown(name)}.")
        return member

    # Both -----------------------------------------------------------------------------------------------------

    def _packing(self, member: Member) -> str:
        """Empty, or gzip; raises LayerUnsupported for others."""
        packing = packing_of(next(self.archive.chunks(Member(member.offset, min(member.size, 8))), b""))
        if packing not in ("", "gzip"):
            raise LayerUnsupported(f"A layer is packed with {packing}. Save the image with gzip, or not packed.")
        return packing

    def _hashed(self, member: Member, *, packed: bool) -> tuple[str, str]:
        """The digest of the file, and of what it unpacks to."""
        if (member, packed) not in self.known:
            outer, inner = hashlib.sha256(), hashlib.sha256()

            def through() -> Iterator[bytes]:
                for chunk in self.archive.chunks(member):
                    self.pace(len(chunk))
                    outer.update(chunk)
                    yield chunk

            if packed:
                for out in gunzip(through(), self.budget):
                    self.pace(0)
                    inner.update(out)
            else:
                for _ in through():
                    pass
                inner = outer
            self.known[member, packed] = f"sha256:{outer.hexdigest()}", f"sha256:{inner.hexdigest()}"
        return self.known[member, packed]

    def _blob(self, digest: str, member: Member) -> None:
        self.plan.blobs.setdefault(digest, Blob(digest, member))


def _named(found: Descriptor, body: bytes) -> Manifest:
    return Manifest(found.digest, found.media_type, body)


def _manifest_of(config: dict[str, Any], layers: list[dict[str, Any]]) -> Manifest:
    """A manifest for an image that came without one. The same archive gives the same bytes each time."""
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": docs.OCI_MANIFEST, "config": config, "layers": layers}, separators=(",", ":")
    ).encode()
    return Manifest(docs.digest_of(body), docs.OCI_MANIFEST, body)


def _counts_agree(layers: int, diff_ids: int) -> None:
    if layers != diff_ids:
        raise LayersMismatch(f"The image has {layers} layers, and its configuration means {diff_ids}.")
    if not layers:
        raise NotAnImage("The image has no layers.")


def _diff_ids(config: dict[str, Any]) -> list[str]:
    """Of an image's configuration (opencontainers/image-spec, config.md). Raises NotAnImage."""
    if config.get("os") != "linux":
        raise NotAnImage(f"The image is not for Linux, but for {shown(config.get('os'))}.")
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not architecture:
        raise NotAnImage("The image's configuration does not say for which architecture it is.")
    rootfs = config.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise NotAnImage("The image's configuration names no layers.")
    listed = docs.a_list(rootfs.get("diff_ids"), "The configuration's diff_ids")
    if len(listed) > MAX_LAYERS:
        raise TooMuch(f"The image has more than {MAX_LAYERS} layers.")
    return [docs.a_digest(one, "One of the configuration's diff_ids") for one in listed]
