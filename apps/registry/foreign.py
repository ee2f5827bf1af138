"""Reading from other people's registries, as a client that trusts nothing of what it is told.

Sources: opencontainers/distribution-spec, "Pull"; distribution/distribution, docs/content/spec/auth/token.md (the
challenge, and the token server that it names, which is an address like any other here: it goes through the guard).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from django.conf import settings

from apps.core.errors import Refused
from apps.core.guarded import AddressRefused, AddressUnreachable, AnswerTooSlow, body_of, chunks_of, guarded, told
from apps.registry.client import MANIFESTS, MAX_MANIFEST, open_client
from apps.registry.references import HOST, Credential, Reference
from apps.registry.selectors import repository_named
from apps.registry.services.tokens import pull_token

#: Bytes that a token server may answer with, and of a blob that is read for what it says.
MAX_TOKEN = 64 * 1024
MAX_CONFIG = 4 * 1024 * 1024
#: A blob may take so long, and then must come at this pace: bytes a second.
PATIENCE_S = 30.0
LEAST_PACE = 64 * 1024
_PARAMETER = re.compile(r'([a-z]+)="([^"\\]{0,2000})"')


class SourceDenied(Refused):
    """It needs another user or password, or this one may not."""

    code = "imports.source_denied"
    status = 502


class SourceMissing(Refused):
    code = "imports.source_not_found"
    status = 502


class SourceInvalid(Refused):
    """What it says can't be right, or is no image."""

    code = "imports.source_invalid"
    status = 502


class SourceBusy(AddressUnreachable):
    """Its own trouble, or too many questions: later it may go."""

    code = "imports.source_busy"


@dataclass(frozen=True, slots=True)
class Found:
    digest: str
    media_type: str
    body: bytes


@contextmanager
def foreign(source: Reference, credential: Credential | None, *, total_s: float) -> Iterator[Foreign]:
    """For reading one repository, for so many seconds in all. Raises what apps.core.guarded does, and the above."""
    if not re.fullmatch(HOST, source.host):
        raise AddressRefused("The registry's name can't be used.")
    if source.host == settings.REGISTRY_PUBLIC:
        with _own(source) as own:
            yield own
        return
    if credential is None and settings.REGISTRY_CACHE_URL and source.host == settings.REGISTRY_CACHE_OF:
        # The operators' own, which fetches from there itself. Never with a tenant's password: all tenants share it.
        with told(), httpx.Client(timeout=30, trust_env=False, headers={"Accept-Encoding": "identity"}) as plain:
            yield Foreign(plain, settings.REGISTRY_CACHE_URL.rstrip("/"), source.path, None)
        return
    with guarded(total_s=total_s) as client:
        yield Foreign(client, f"{scheme()}://{source.api_host}", source.path, credential)


@contextmanager
def _own(source: Reference) -> Iterator[Foreign]:
    """Our own registry, as far as everybody may pull: the base images. Raises SourceMissing for anything else."""
    found = repository_named(source.path)
    if found is None or not found.is_public or found.deleting_at is not None:
        raise SourceMissing("The platform has no such image that everybody may pull.")
    with told(), open_client(30) as client:
        client.headers["Accept-Encoding"] = "identity"
        yield Foreign(client, "", source.path, None, authorization=f"Bearer {pull_token(source.path)}")


def scheme() -> str:
    return "http" if settings.GUARD_HTTP else "https"


def sign_in(host: str, credential: Credential, *, total_s: float = 20.0) -> None:
    """Whether the registry lets this user in, as ``docker login`` asks. Raises as ``foreign`` does."""
    source = Reference(host, "none", "")
    with foreign(source, credential, total_s=total_s) as registry:
        registry.ping()


class Foreign:
    def __init__(
        self, client: httpx.Client, base: str, path: str, credential: Credential | None, *, authorization: str = ""
    ) -> None:
        self._client = client
        self._base = base
        self._path = path
        self._credential = credential
        self._authorization = authorization

    def ping(self) -> None:
        with self._get(f"{self._base}/v2/", scope=""):
            return

    def manifest(self, reference: str) -> Found:
        """What a tag or a digest names; of a digest nothing else than that. Raises SourceMissing, SourceInvalid."""
        url = f"{self._base}/v2/{self._path}/manifests/{reference}"
        with self._get(url, accept=MANIFESTS) as reply:
            body = body_of(reply, MAX_MANIFEST)
            media_type = reply.headers.get("Content-Type", "").partition(";")[0].strip()[:120]
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise SourceInvalid("What the registry gave for a digest is something else.")
        return Found(digest, media_type, body)

    def small_blob(self, digest: str, size: int) -> bytes:
        if size > MAX_CONFIG:
            raise SourceInvalid("The image's configuration is larger than one is.")
        return b"".join(self.blob(digest, size))

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """Its bytes. The last of them come only if all together are what the digest says, and so many.

        Raises SourceMissing, SourceInvalid, AnswerTooSlow.
        """
        seen, count, began, held = hashlib.sha256(), 0, time.monotonic(), b""
        with told(), self._get(f"{self._base}/v2/{self._path}/blobs/{digest}") as reply:
            for chunk in chunks_of(reply, size):
                seen.update(chunk)
                count += len(chunk)
                if count < (time.monotonic() - began - PATIENCE_S) * LEAST_PACE:
                    raise AnswerTooSlow("The other registry sends too slowly.")
                if held:
                    yield held
                held = chunk
        if count != size or f"sha256:{seen.hexdigest()}" != digest:
            raise SourceInvalid("A part of the image is not what its digest says.")
        yield held

    @contextmanager
    def _get(self, url: str, *, accept: str = "*/*", scope: str | None = None) -> Iterator[httpx.Response]:
        """An answer that is one. A challenge is met once; a token that ran out later is renewed by the next."""
        wanted = f"repository:{self._path}:pull" if scope is None else scope
        for last in (False, True):
            headers = {"Accept": accept}
            if self._authorization:
                headers["Authorization"] = self._authorization
            with self._client.stream("GET", url, headers=headers) as reply:
                if reply.status_code == httpx.codes.UNAUTHORIZED and not last:
                    challenge = reply.headers.get("WWW-Authenticate", "")
                elif reply.is_success:
                    yield reply
                    return
                else:
                    raise _refusal(reply.status_code)
            self._authorization = self._answer(challenge, wanted)

    def _answer(self, challenge: str, scope: str) -> str:
        """The Authorization for what the registry asks for. Raises SourceDenied, SourceInvalid."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            if self._credential is None:
                raise _refusal(httpx.codes.UNAUTHORIZED)
            return str(httpx.BasicAuth(self._credential.username, self._credential.password)._auth_header)
        asked = dict(_PARAMETER.findall(rest))
        if kind.lower() != "bearer" or "realm" not in asked:
            raise SourceInvalid("The registry asks for a sign-in of a kind that is not known here.")
        params = {name: asked[name] for name in ("service",) if name in asked}
        if scope:
            params["scope"] = scope
        auth = (self._credential.username, self._credential.password) if self._credential else None
        try:
            realm = httpx.URL(asked["realm"]).copy_merge_params(params)
        except (httpx.InvalidURL, ValueError):
            raise SourceInvalid("The registry names no usable token server.") from None
        with self._client.stream("GET", realm, auth=auth, headers={"Accept": "application/json"}) as reply:
            if not reply.is_success:
                raise _refusal(reply.status_code)
            return f"Bearer {_token(body_of(reply, MAX_TOKEN))}"


def _token(body: bytes) -> str:
    try:
        given = json.loads(body)
        token = given.get("token") or given["access_token"]
    except (ValueError, RecursionError, KeyError, AttributeError):
        raise SourceInvalid("The registry's token server gave no token.") from None
    # It becomes a header's value.
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,32768}", token):
        raise SourceInvalid("The registry's token server gave no token.")
    return token


def _refusal(status: int) -> Refused:
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return SourceDenied("The registry does not let this user in, or not to this image. Look at name and password.")
    if status == httpx.codes.NOT_FOUND:
        return SourceMissing("The registry has no such image, or does not show it to this user.")
    if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS:
        return SourceBusy(f"The registry can't answer at the moment ({status}).")
    return SourceInvalid(f"The registry gave an answer that is none ({status}).")
