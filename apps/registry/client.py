"""The registry's HTTP API (opencontainers/distribution-spec), as far as the platform itself needs it."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx
from django.conf import settings

from apps.core.errors import PlatformError

MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
MAX_TAGS = 5000
BUDGET_S = 30.0


class RegistryUnavailable(PlatformError):
    """No answer at all: asking about other repositories is of no use now."""

    code = "registry.unavailable"


class RepositoryUnreadable(PlatformError):
    """An answer that is none, about this one repository."""

    code = "registry.repository_unreadable"


@dataclass(frozen=True, slots=True)
class Listing:
    """Tag -> digest; ``complete`` says whether that is all that the repository holds."""

    tags: dict[str, str]
    complete: bool


def tags_of(repository: str, *, token: str) -> Listing:
    """What the repository holds: at most MAX_TAGS tags, in at most BUDGET_S seconds; nothing where it is unknown.

    Raises RegistryUnavailable, RepositoryUnreadable.

    ``token`` is a bearer token that may pull the repository.
    """
    headers = {"Authorization": f"Bearer {token}", "Accept": MANIFESTS}
    verify = ssl.create_default_context(cafile=settings.REGISTRY_CA) if settings.REGISTRY_CA else True
    try:
        with httpx.Client(base_url=settings.REGISTRY_URL, headers=headers, verify=verify, timeout=5) as client:
            found: dict[str, str] = {}
            deadline = time.monotonic() + BUDGET_S
            tags = _tags(client, repository)
            for tag in tags[:MAX_TAGS]:
                if time.monotonic() >= deadline:
                    return Listing(found, complete=False)
                reply = client.head(f"/v2/{repository}/manifests/{tag}")
                if reply.status_code == httpx.codes.NOT_FOUND:
                    continue
                reply.raise_for_status()
                found[tag] = reply.headers["Docker-Content-Digest"]
            return Listing(found, complete=len(tags) <= MAX_TAGS)
    except httpx.ConnectError as error:
        raise RegistryUnavailable(f"The registry did not answer: {error!r}") from error
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise RepositoryUnreadable(f"The registry did not answer as it should: {error!r}") from error


def _tags(client: httpx.Client, repository: str) -> list[str]:
    tags: list[str] = []
    path: str | None = f"/v2/{repository}/tags/list?n=500"
    while path and len(tags) <= MAX_TAGS:
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
