"""The registry's HTTP API (opencontainers/distribution-spec), as far as the platform itself needs it."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx

from apps.registry.client.base import (
    ImageRefused,
    RegistryUnavailable,
    RepositoryUnreadable,
    open_client,
)
from apps.registry.client.push import Push
from apps.registry.models.repositories import DIGEST

__all__ = [
    "ImageRefused",
    "Push",
    "RegistryUnavailable",
    "RepositoryUnreadable",
    "accepts",
    "editing",
    "open_client",
    "purge",
    "reading",
    "tags_of",
]

MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
INDEX = "application/vnd.oci.image.index.v1+json"
MAX_TAGS = 5000
#: The same before something is deleted, which needs them all; and how long that may take. Seconds.
WHOLE_TAGS = 100_000
WHOLE_S = 150.0
#: Bytes; distribution takes no larger manifest.
MAX_MANIFEST = 4 * 1024 * 1024
BUDGET_S = 30.0
#: How long a registry may take to say that it is there, after it failed to answer something else.
PING_S = 3.0


@dataclass(frozen=True, slots=True)
class Listing:
    """Tag -> digest; ``complete`` says whether that is all that the repository holds."""

    tags: dict[str, str]
    complete: bool


def tags_of(repository: str, *, token: str, whole: bool = False) -> Listing:
    """What the repository holds: at most MAX_TAGS tags, in at most BUDGET_S seconds; nothing where it is unknown. Of
    more each time others, so that none is never looked at. ``whole``: WHOLE_TAGS and WHOLE_S instead.

    Raises RegistryUnavailable, RepositoryUnreadable.

    ``token`` is a bearer token that may pull the repository.
    """
    with _registry(token) as client:
        found: dict[str, str] = {}
        most = WHOLE_TAGS if whole else MAX_TAGS
        deadline = time.monotonic() + (WHOLE_S if whole else BUDGET_S)
        tags = _tags(client, repository, deadline)
        for tag in random.sample(tags, most) if len(tags) > most else tags:
            if time.monotonic() >= deadline:
                return Listing(found, complete=False)
            reply = client.head(f"/v2/{repository}/manifests/{tag}")
            if reply.status_code == httpx.codes.NOT_FOUND:
                continue
            reply.raise_for_status()
            found[tag] = reply.headers["Docker-Content-Digest"]
        return Listing(found, complete=len(tags) <= most)


def accepts(token: str, *, url: str = "") -> bool:
    """Whether the registry (at ``url``, if it is another than ours) trusts the key that signed the token.

    Raises RegistryUnavailable, RepositoryUnreadable.
    """
    with _registry(token) as client:
        reply = client.get(urljoin(url, "/v2/"))
        if reply.status_code not in {httpx.codes.OK, httpx.codes.UNAUTHORIZED}:
            reply.raise_for_status()
        return reply.status_code == httpx.codes.OK


def purge(repository: str, digests: Iterable[str], *, token: str) -> bool:
    """Delete every manifest of the repository, and its links to what they are made of, for at most BUDGET_S seconds.

    ``digests`` are manifests that no tag may name any more. True once nothing is left that can be named; False where
    there was more than time: what is gone stays gone, so the next call gets further. The bytes are the registry's own
    garbage collection's to remove. ``token`` may pull and delete. Raises RegistryUnavailable, RepositoryUnreadable.
    """
    with _registry(token) as client:
        return _Purge(client, repository, time.monotonic() + BUDGET_S).run(digests)


class _OutOfTime(Exception):
    """The rest is the next call's."""


class _Purge:
    def __init__(self, client: httpx.Client, repository: str, deadline: float) -> None:
        self.client = client
        self.base = f"/v2/{repository}"
        self.repository = repository
        self.deadline = deadline
        self.seen: set[str] = set()

    def run(self, digests: Iterable[str]) -> bool:
        waiting = set(digests)
        try:
            while True:
                for digest in sorted(waiting):
                    self._manifest(digest)
                # A manifest takes its tags along. What a tag names still was pushed meanwhile, or would not go.
                left = self._tagged()
                waiting = left - self.seen
                if not waiting:
                    return not left
        except _OutOfTime:
            return False

    def _in_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise _OutOfTime

    def _tagged(self) -> set[str]:
        left = set()
        for tag in _tags(self.client, self.repository, self.deadline + BUDGET_S):
            self._in_time()
            reply = self.client.head(f"{self.base}/manifests/{tag}")
            # A tag without a manifest can't be deleted by distribution 2.8, and names nothing.
            if reply.status_code != httpx.codes.NOT_FOUND:
                reply.raise_for_status()
                left.add(_checked(reply.headers["Docker-Content-Digest"]))
        return left

    def _manifest(self, digest: str) -> None:
        """Its parts first: once it is gone nobody knows of them. An index's manifests go like itself."""
        if digest in self.seen:
            return
        self._in_time()
        self.seen.add(digest)
        reply = self.client.get(f"{self.base}/manifests/{digest}")
        if reply.status_code == httpx.codes.NOT_FOUND:
            return
        reply.raise_for_status()
        manifests, blobs = _parts(reply.content)
        for one in manifests:
            self._manifest(one)
        for one in blobs:
            if one not in self.seen:
                self._in_time()
                self.seen.add(one)
                self._delete(f"{self.base}/blobs/{one}")
        self._delete(f"{self.base}/manifests/{digest}")

    def _delete(self, path: str) -> None:
        reply = self.client.delete(path)
        if reply.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            raise RepositoryUnreadable("The registry does not delete: set storage.delete.enabled in its configuration.")
        if reply.status_code != httpx.codes.NOT_FOUND:
            reply.raise_for_status()


def _parts(manifest: bytes) -> tuple[list[str], list[str]]:
    """The digests of the manifests and the blobs that it names. Tenants wrote it: what is no digest is left out."""
    try:
        body = json.loads(manifest)
    except (ValueError, RecursionError):
        return [], []
    if not isinstance(body, dict):
        return [], []

    def named(entries: object) -> list[str]:
        listed = entries if isinstance(entries, list) else [entries]
        found = [str(one.get("digest", "")) for one in listed if isinstance(one, dict)]
        return [digest for digest in found if re.fullmatch(DIGEST, digest)]

    return named(body.get("manifests")), [*named(body.get("layers")), *named(body.get("config"))]


def _checked(text: str) -> str:
    if not re.fullmatch(DIGEST, text):
        raise ValueError("not a digest")
    return text


@contextmanager
def reading(repository: str, *, token: str) -> Iterator[Reader]:
    """For some questions about one repository. Raises RegistryUnavailable, RepositoryUnreadable.

    ``token`` may pull it.
    """
    with _registry(token) as client:
        yield Reader(client, repository)


@contextmanager
def editing(repository: str, *, token: str) -> Iterator[Editor]:
    """The same for changes. ``token`` may pull, push and delete."""
    with _registry(token) as client:
        yield Editor(client, repository)


class Reader:
    """None: the registry does not have it (any more)."""

    def __init__(self, client: httpx.Client, repository: str) -> None:
        self._client = client
        self._base = f"/v2/{repository}"

    def manifest(self, digest: str) -> tuple[bytes, str] | None:
        """Its bytes, at most MAX_MANIFEST, and its media type."""
        return self._bytes(f"{self._base}/manifests/{_checked(digest)}", digest, MAX_MANIFEST)

    def blob(self, digest: str, *, most: int) -> bytes | None:
        """At most ``most`` bytes of it; what is larger is refused (RepositoryUnreadable)."""
        found = self._bytes(f"{self._base}/blobs/{_checked(digest)}", digest, most)
        return None if found is None else found[0]

    def blob_size(self, digest: str) -> int | None:
        return self._size(f"{self._base}/blobs/{_checked(digest)}")

    def manifest_size(self, digest: str) -> int | None:
        return self._size(f"{self._base}/manifests/{_checked(digest)}")

    def _size(self, path: str) -> int | None:
        reply = self._client.head(path, follow_redirects=True)
        if reply.status_code == httpx.codes.NOT_FOUND:
            return None
        reply.raise_for_status()
        return int(reply.headers["Content-Length"])

    def _bytes(self, path: str, digest: str, most: int) -> tuple[bytes, str] | None:
        """What is there under this digest, and is what it says: a storage that gives other bytes is not believed."""
        deadline = time.monotonic() + BUDGET_S
        # A registry may lead to its object storage for a blob; httpx does not take the token along there.
        with self._client.stream("GET", path, follow_redirects=True) as reply:
            if reply.status_code == httpx.codes.NOT_FOUND:
                return None
            reply.raise_for_status()
            held = bytearray()
            for chunk in reply.iter_bytes():
                held += chunk
                if len(held) > most or time.monotonic() > deadline:
                    raise RepositoryUnreadable(f"{digest[:19]} is larger than {most} bytes, or came too slowly.")
        if f"sha256:{hashlib.sha256(held).hexdigest()}" != digest:
            raise RepositoryUnreadable(f"What the registry gave for {digest[:19]} is something else.")
        return bytes(held), reply.headers.get("Content-Type", "")


class Editor:
    """Each may be repeated: what is gone already is no error."""

    #: An annotation of the empty index that takes a tag away; see ``untag``.
    MARK = "berth.untag"

    def __init__(self, client: httpx.Client, repository: str) -> None:
        self._client = client
        self._base = f"/v2/{repository}"

    def delete(self, digest: str) -> None:
        """The manifest, with all tags that name it now."""
        reply = self._client.delete(f"{self._base}/manifests/{_checked(digest)}")
        if reply.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            raise RepositoryUnreadable("The registry does not delete: set storage.delete.enabled in its configuration.")
        if reply.status_code != httpx.codes.NOT_FOUND:
            reply.raise_for_status()

    def untag(self, tag: str, digest: str) -> None:
        """Take the tag from this digest, and leave the manifest and its other tags. Nothing where it names another.

        Distribution 3 deletes a tag when asked to. 2.8 only deletes manifests, each with its tags: there the tag is
        given to an empty index first, which is then deleted (so does regclient's TagDelete).
        """
        if self.names(tag) != digest:
            return
        reply = self._client.delete(f"{self._base}/manifests/{tag}")
        if reply.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.METHOD_NOT_ALLOWED):
            # With a mark of its own, so that deleting it takes no other tag along.
            empty = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {self.MARK: str(uuid4())}}
            put = self._client.put(
                f"{self._base}/manifests/{tag}", content=json.dumps(empty), headers={"Content-Type": INDEX}
            )
            put.raise_for_status()
            self.delete(put.headers["Docker-Content-Digest"])
        elif reply.status_code != httpx.codes.NOT_FOUND:
            reply.raise_for_status()

    def names(self, tag: str) -> str:
        """The digest that the tag names; empty for none."""
        reply = self._client.head(f"{self._base}/manifests/{tag}")
        if reply.status_code == httpx.codes.NOT_FOUND:
            return ""
        reply.raise_for_status()
        return _checked(reply.headers["Docker-Content-Digest"])

    def is_mark(self, digest: str) -> bool:
        """Whether it is what an ``untag`` left behind that was not finished."""
        reply = self._client.get(f"{self._base}/manifests/{_checked(digest)}")
        return reply.is_success and len(reply.content) < 1000 and f'"{self.MARK}"' in reply.text


@contextmanager
def _registry(token: str) -> Iterator[httpx.Client]:
    """A client for a few questions; what goes wrong in the block becomes one of our errors."""
    try:
        with open_client(5) as client:
            client.headers.update({"Authorization": f"Bearer {token}", "Accept": MANIFESTS})
            yield client
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise RegistryUnavailable(f"The registry did not answer: {error!r}") from error
    except (httpx.HTTPError, KeyError, ValueError) as error:
        if _is_fault(error) and not _is_there():
            raise RegistryUnavailable(f"The registry did not answer: {error!r}") from error
        raise RepositoryUnreadable(f"The registry did not answer as it should: {error!r}") from error


def _is_fault(error: Exception) -> bool:
    """Whether it may come of a registry that hangs, is stopping, or is away behind its proxy."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def _is_there() -> bool:
    """Whether it answers at all: then what went wrong is one repository's, and the others can be asked about."""
    try:
        with open_client(PING_S) as client:
            return client.get("/v2/").status_code in {httpx.codes.OK, httpx.codes.UNAUTHORIZED}
    except httpx.HTTPError:
        return False


def _tags(client: httpx.Client, repository: str, deadline: float) -> list[str]:
    """All of their names, or more than WHOLE_TAGS. Raises ValueError where that takes too long."""
    tags: list[str] = []
    path: str | None = f"/v2/{repository}/tags/list?n=500"
    while path and len(tags) <= WHOLE_TAGS:
        if time.monotonic() >= deadline:
            raise ValueError("listing its tags takes too long")
        reply = client.get(path)
        if reply.status_code == httpx.codes.NOT_FOUND:
            return []
        reply.raise_for_status()
        tags += reply.json().get("tags") or []
        following = reply.links.get("next", {}).get("url")
        # Only the path and query of the link are followed: the client stays on its own registry.
        path = _local(urljoin(path, following)) if following else None
    return tags


def _local(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
