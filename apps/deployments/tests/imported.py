"""What the tests of imports share: our registry in memory, and one import from begin to end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apps.deployments.services.imports import app_import
from apps.registry.client import RegistryUnavailable
from apps.registry.importing import import_work
from apps.registry.models import ExternalRegistry, Import
from apps.registry.services.external import external_create
from apps.registry.tests.registry import digest_of
from apps.registry.tests.upstream import Upstream


class Ours:
    """Our registry's side of a push, in memory; ``down`` for what it does not take."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.down = False

    def __call__(self, repository: str, token: Any) -> Ours:
        self.token = token
        return self

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def has(self, digest: str) -> bool:
        self.token()
        return digest in self.blobs

    def blob(self, digest: str, size: int, chunks: Iterable[bytes]) -> None:
        if self.down:
            raise RegistryUnavailable("down")
        body = b"".join(chunks)
        assert (digest_of(body), len(body)) == (digest, size)
        self.blobs[digest] = body

    def manifest(self, reference: str, media_type: str, body: bytes) -> None:
        self.manifests[reference] = body


def run(shop: Any, world: Any, there: Upstream, source: str = "team/app:1.0", **values: Any) -> Import:
    made = app_import(app=shop, source=f"{there.place}/{source}", by=world.alice, **{"tag": "", **values})
    import_work(made.pk)
    made.refresh_from_db()
    return made


def signed_up(world: Any, there: Upstream, password: str = "s3cret") -> ExternalRegistry:
    return external_create(
        tenant=world.acme, name="there", host=there.place, username="robot", password=password, by=world.alice
    )
