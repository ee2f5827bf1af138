"""Where distribution's filesystem driver keeps what, and what a manifest names.

Source: distribution 2.8.2, registry/storage/paths.go. Below the root directory:

    docker/registry/v2/blobs/sha256/ab/<digest>/data               every blob and manifest, once
    docker/registry/v2/repositories/<name>/_layers/sha256/<digest>/link          a blob that the repository may serve
    docker/registry/v2/repositories/<name>/_manifests/revisions/sha256/<digest>/link    a manifest of the repository
    docker/registry/v2/repositories/<name>/_uploads/<id>/data                    what is being pushed

A digest stands here without its "sha256:". Links are known by the names of their directories: their content says the
same, and may be half written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

#: The registry takes no longer manifest (distribution, maxManifestBodySize).
MAX_MANIFEST = 4 * 1024 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)


class Unreadable(Exception):
    """What a manifest names can't be told: then whatever its repository holds must stay."""


class Layout:
    """One root directory. Raises OSError where the disk does; what is simply not there is no error."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "docker/registry/v2/blobs/sha256"
        self.repositories = root / "docker/registry/v2/repositories"

    def blob(self, digest: str) -> Path:
        return self.blobs / digest[:2] / digest

    def layer(self, repository: str, digest: str) -> Path:
        return self.repositories / repository / "_layers/sha256" / digest

    def revision(self, repository: str, digest: str) -> Path:
        return self.repositories / repository / "_manifests/revisions/sha256" / digest

    def repository_names(self) -> Iterator[str]:
        """A name may have slashes; a directory of a repository begins with an underscore, a name never does."""
        waiting = [self.repositories]
        while waiting:
            here = waiting.pop()
            inside = _directories(here)
            if here != self.repositories and any(name.startswith("_") for name in inside):
                yield str(here.relative_to(self.repositories))
            waiting += [here / name for name in inside if not name.startswith("_")]

    def layers(self, repository: str) -> dict[str, float]:
        """Digest -> when its link was written, seconds since the epoch: by an upload or a mount, not by a HEAD."""
        return _linked(self.repositories / repository / "_layers/sha256")

    def revisions(self, repository: str) -> dict[str, float]:
        return _linked(self.repositories / repository / "_manifests/revisions/sha256")

    def uploads(self, repository: str) -> list[tuple[float, int]]:
        """Of each upload that has not ended: when something came last, and its bytes."""
        found = []
        directory = self.repositories / repository / "_uploads"
        for name in _directories(directory):
            stats = [at for at in (_stat(directory / name), _stat(directory / name / "data")) if at is not None]
            if stats:
                found.append((max(at.st_mtime for at in stats), stats[-1].st_size if len(stats) > 1 else 0))
        return found

    def stored(self) -> Iterator[tuple[str, float, int]]:
        """Every blob that has data: its digest, when it was written, its bytes."""
        for part in _directories(self.blobs):
            for digest in _directories(self.blobs / part):
                data = _stat(self.blobs / part / digest / "data") if _HEX.fullmatch(digest) else None
                if data is not None:
                    yield digest, data.st_mtime, data.st_size

    def size(self, digest: str) -> int:
        data = _stat(self.blob(digest) / "data")
        return data.st_size if data is not None else 0

    def linked(self, without: Mapping[str, set[str]] = MappingProxyType({})) -> set[bytes]:
        """All that some repository has a link to, but for these layers; in bytes, since there may be millions."""
        found: set[bytes] = set()
        for repository in self.repository_names():
            layers = self.layers(repository).keys() - without.get(repository, set())
            found.update(bytes.fromhex(digest) for digest in layers)
            found.update(bytes.fromhex(digest) for digest in self.revisions(repository))
        return found

    def is_linked(self, repository: str, digest: str) -> bool:
        return (self.layer(repository, digest) / "link").exists() or (
            self.revision(repository, digest) / "link"
        ).exists()

    def hollow(self, repository: str, before: float) -> Iterator[Path]:
        """Directories of links that the registry deleted so long ago: it leaves them, and each takes a block."""
        for kind in ("_layers/sha256", "_manifests/revisions/sha256"):
            directory = self.repositories / repository / kind
            for name in _directories(directory):
                at = _stat(directory / name)
                if at is not None and at.st_mtime < before and _stat(directory / name / "link") is None:
                    yield directory / name

    def named(self, repository: str) -> set[str]:
        """What the repository's manifests name. Raises Unreadable.

        A manifest whose data is gone names nothing: nobody can pull by it.
        """
        found: set[str] = set()
        for digest in self.revisions(repository):
            try:
                with (self.blob(digest) / "data").open("rb") as data:
                    body = data.read(MAX_MANIFEST + 1)
            except FileNotFoundError:
                continue
            try:
                found |= digests_in(body)
            except Unreadable as error:
                raise Unreadable(f"{repository}@sha256:{digest}: {error}") from None
        return found


def digests_in(manifest: bytes) -> set[str]:
    """Every text in it that holds a digest, whatever it stands for: what a manifest of any kind, known here or not,
    could mean by it. Raises Unreadable for what is no JSON, or half of one.
    """
    if len(manifest) > MAX_MANIFEST:
        raise Unreadable("longer than a manifest may be")
    found = set(_DIGEST.findall(manifest.decode(errors="replace")))

    def pairs(entries: list[tuple[str, object]]) -> list[object]:
        # All of them: of keys that come twice another reader may take the other.
        return [one for entry in entries for one in entry]

    try:
        waiting: list[object] = [json.loads(manifest, object_pairs_hook=pairs)]
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no JSON: {error!r:.100}") from None
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found |= set(_DIGEST.findall(one))
        elif isinstance(one, list):
            waiting += one
    return {digest.lower() for digest in found}


def _directories(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _linked(path: Path) -> dict[str, float]:
    found = {}
    for name in _directories(path):
        link = _stat(path / name / "link") if _HEX.fullmatch(name) else None
        if link is not None:
            found[name] = link.st_mtime
    return found


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
