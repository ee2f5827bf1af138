"""Names of images in other registries, as tenants type them: parsed into what a URL may be made of, or refused.

Source: distribution/reference, "Grammar" (regexp.go) and normalize.go for Docker Hub's short names. Stricter here: the
registry must be named, so that nobody gets another one's image by leaving it out; no IPv6, no upper case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from apps.core.errors import Invalid
from apps.registry.models.repositories import DIGEST, TAG

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: At least one dot or a port: "team/app" is no host.
HOST = rf"\A(?=.{{1,253}}\Z)(?:{_LABEL}(?:\.{_LABEL})+(?::[1-9][0-9]{{0,4}})?|{_LABEL}:[1-9][0-9]{{0,4}})\Z"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
PATH = rf"\A(?=.{{1,200}}\Z){_PART}(?:/{_PART})*\Z"
DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_API = "registry-1.docker.io"
MAX_LENGTH = 500


class ReferenceInvalid(Invalid):
    code = "imports.reference_invalid"


@dataclass(frozen=True, slots=True)
class Reference:
    """``host`` is how the registry is named, ``path`` the repository there. A tag, a digest, or both; the digest
    decides.
    """

    host: str
    path: str
    tag: str
    digest: str = ""

    @property
    def api_host(self) -> str:
        """Where it answers: Docker Hub's name is not its address."""
        return _HUB_API if self.host == DOCKER_HUB else self.host

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.path}{tag}{'@' + self.digest if self.digest else ''}"


@dataclass(frozen=True, slots=True)
class Credential:
    """For one registry."""

    username: str
    password: str = field(repr=False)


def host_parsed(text: str) -> str:
    """A registry's name, with a port perhaps. Raises ReferenceInvalid."""
    host = text.strip()
    if not re.fullmatch(HOST, host) or not _port_ok(host):
        raise ReferenceInvalid(
            "Name the registry as registry.example.com, or with a port: no https://, no path, small letters.",
            field="host",
        )
    return DOCKER_HUB if host in _HUB_NAMES else host


def _port_ok(host: str) -> bool:
    _, _, port = host.partition(":")
    return not port or int(port) <= 65535


def reference_parsed(text: str) -> Reference:
    """``registry.example.com/team/app:tag`` or ``…@sha256:…``; without either the tag is "latest".

    Raises ReferenceInvalid.
    """
    if len(text) > MAX_LENGTH:
        raise _refused()
    rest, at, digest = text.strip().partition("@")
    name, slash, path = rest.partition("/")
    path, colon, tag = path.partition(":")
    if not slash or (at and not re.fullmatch(DIGEST, digest)) or (colon and not re.fullmatch(TAG, tag)):
        raise _refused()
    try:
        host = host_parsed(name)
    except ReferenceInvalid:
        raise _refused() from None
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not re.fullmatch(PATH, path):
        raise _refused()
    return Reference(host, path, tag or ("" if digest else "latest"), digest)


def _refused() -> ReferenceInvalid:
    return ReferenceInvalid(
        "Name the image with its registry: registry.example.com/team/app:tag, or docker.io/library/redis:7.",
        field="source",
    )
