"""Pushing to our own registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import httpx

from apps.registry.client.base import ImageRefused, RegistryUnavailable, open_client


class Push:
    """Pushing to one repository (opencontainers/distribution-spec, "Push"), one request after the other.

    ``token`` is asked for before each request: a large blob may take longer than a token lives. Its errors come
    through. All raise RegistryUnavailable where trying again may help, ImageRefused where it won't.
    """

    #: The registry hashes a blob before it answers the last request about it.
    TIMEOUT_S = 60.0

    def __init__(self, repository: str, token: Callable[[], str]) -> None:
        self._base = f"/v2/{repository}"
        self._token = token
        self._client = open_client(self.TIMEOUT_S)

    def __enter__(self) -> Push:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def has(self, digest: str) -> bool:
        """Whether the repository holds this blob."""
        return self._asked("HEAD", f"{self._base}/blobs/{digest}", but=httpx.codes.NOT_FOUND).is_success

    def blob(self, digest: str, size: int, chunks: Iterable[bytes]) -> None:
        """Push ``size`` bytes, which are never in memory together; the registry compares them with the digest."""
        begun = self._asked("POST", f"{self._base}/blobs/uploads/")
        place = urljoin(self._base, begun.headers.get("Location", ""))
        # Only its path and query: the client stays on its own registry.
        params = httpx.QueryParams(urlsplit(place).query).set("digest", digest)
        self._asked(
            "PUT",
            urlsplit(place).path,
            params=params,
            content=chunks,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
        )

    def manifest(self, reference: str, media_type: str, body: bytes) -> None:
        """Push a manifest under a tag or its digest. What it names must have been pushed before."""
        self._asked("PUT", f"{self._base}/manifests/{reference}", content=body, headers={"Content-Type": media_type})

    def _asked(
        self,
        method: str,
        path: str,
        *,
        but: int = 0,
        params: httpx.QueryParams | None = None,
        content: Iterable[bytes] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        credential = {"Authorization": f"Bearer {self._token()}"}
        try:
            reply = self._client.request(
                method, path, params=params, content=content, headers={**credential, **(headers or {})}
            )
        except httpx.HTTPError as error:
            raise RegistryUnavailable(f"The registry did not answer: {error!r}") from error
        if reply.is_success or reply.status_code == but:
            return reply
        if reply.is_server_error or reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise RegistryUnavailable(f"The registry did not take what was pushed: {reply.status_code}.")
        raise ImageRefused(f"The registry refused what was pushed: {_reasons(reply)}.")


def _reasons(reply: httpx.Response) -> str:
    """The registry's own codes (distribution-spec, "Error Codes"); its messages may name what is not a tenant's."""
    try:
        codes = [one["code"] for one in reply.json()["errors"]]
    except (ValueError, KeyError, TypeError):
        codes = []
    known = [code for code in codes if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,40}", code)]
    return ", ".join(known[:5]) or str(reply.status_code)
