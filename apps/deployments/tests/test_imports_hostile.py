"""Registries that lie: found out, told of in a sentence, and nothing of it becomes a version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.core.models import Event
from apps.deployments.tests.imported import Ours, run, signed_up
from apps.registry.models import Import, Version
from apps.registry.tests.registry import digest_of
from apps.registry.tests.upstream import Upstream, leads_to, never_ends, says

pytestmark = pytest.mark.django_db
Status = Import.Status


@pytest.fixture
def shop(world: Any, token_key: Any) -> Any:
    return world.app("shop")


def test_a_token_server_where_nobody_may_go_is_not_asked(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.signs_in = "bearer"
    hidden = Upstream("127.0.0.2").start()
    there.realm = f"http://{hidden.place}/token"
    signed_up(world, there)
    made = run(shop, world, there)
    assert made.code == "address.refused"
    assert not hidden.seen
    hidden.shutdown()
    hidden.server_close()


def _lie(there: Upstream, what: str) -> str:
    """A registry that lies; the code that it is answered with."""
    held = there.held
    held.image(b"layer" * 1000, tag="1.0")
    manifest, blob = "/v2/team/app/manifests/1.0", f"/v2/team/app/blobs/{digest_of(b'layer' * 1000)}"
    body = json.loads(held.manifests[held.tags["1.0"]][0])
    layer = body["layers"][0]

    def manifest_of(**changes: Any) -> bytes:
        return json.dumps({**body, **changes}).encode()

    oci = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    lies: dict[str, tuple[str, Any, str]] = {
        "metadata": (manifest, leads_to("http://169.254.169.254/latest/"), "address.refused"),
        "blob to private": (blob, leads_to("http://10.0.0.1/"), "address.refused"),
        "blob to loopback": (blob, leads_to("http://127.0.0.3:1/"), "address.refused"),
        "endless manifest": (manifest, never_ends, "address.answer_too_large"),
        "huge manifest": (manifest, says(b" " * (5 << 20), **oci), "address.answer_too_large"),
        "endless blob": (blob, never_ends, "address.answer_too_large"),
        "other blob": (blob, says(b"other" * 1000), "imports.source_invalid"),
        "short blob": (blob, says(b"layer"), "imports.source_invalid"),
        "no json": (manifest, says(b"<html>", **oci), "imports.source_invalid"),
        "deep json": (manifest, says(b"[" * 100_000, **oci), "imports.source_invalid"),
        "old manifest": (manifest, says(b'{"schemaVersion": 1, "fsLayers": []}'), "imports.source_invalid"),
        "negative size": (manifest, says(manifest_of(layers=[{**layer, "size": -1}]), **oci), "imports.source_invalid"),
        "other size": (manifest, says(manifest_of(layers=[{**layer, "size": 5001}]), **oci), "imports.source_invalid"),
        "no size": (manifest, says(manifest_of(layers=[{**layer, "size": "many"}]), **oci), "imports.source_invalid"),
        "huge size": (
            manifest,
            says(manifest_of(layers=[{**layer, "size": 1 << 40}]), **oci),
            "imports.source_invalid",
        ),
        "odd digest": (
            manifest,
            says(manifest_of(layers=[layer, {**layer, "digest": "../../etc"}]), **oci),
            "imports.source_invalid",
        ),
        "layers elsewhere": (
            manifest,
            says(manifest_of(layers=[{**layer, "urls": ["http://10.0.0.1/"]}]), **oci),
            "imports.source_invalid",
        ),
        "a chart": (manifest, says(manifest_of(artifactType="application/x"), **oci), "imports.source_invalid"),
        "not there": (manifest, lambda handler: handler.send(404), "imports.source_not_found"),
        "a teapot": (manifest, lambda handler: handler.send(418), "imports.source_invalid"),
    }
    path, answer, code = lies[what]
    there.lies[path] = answer
    return code


@pytest.mark.parametrize(
    "what",
    [
        *("metadata", "blob to private", "blob to loopback", "endless manifest", "huge manifest", "endless blob"),
        *(
            "other blob",
            "short blob",
            "no json",
            "deep json",
            "old manifest",
            "negative size",
            "other size",
            "no size",
            "huge size",
        ),
        *("odd digest", "layers elsewhere", "a chart", "not there", "a teapot"),
    ],
)
def test_a_registry_that_lies_is_found_out(shop: Any, world: Any, there: Upstream, ours: Ours, what: str) -> None:
    code = _lie(there, what)
    made = run(shop, world, there)
    assert (made.status, made.code) == (Status.FAILED, code)
    assert not ours.manifests
    assert not Version.objects.filter(repository__name="shop", tag="1.0").exists()
    event = Event.objects.get(code="import.failed")
    assert "127.0.0.3" not in event.message
    assert "10.0.0.1" not in event.message


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="//",service="x"',
        'Bearer service="x"',
        "Negotiate",
        'Bearer realm="http://me:you@127.0.0.1/"',
    ],
)
def test_an_odd_challenge_is_not_followed(shop: Any, world: Any, there: Upstream, ours: Ours, challenge: str) -> None:
    there.lies["/v2/team/app/manifests/1.0"] = lambda handler: handler.send(
        401, headers={"WWW-Authenticate": challenge}
    )
    made = run(shop, world, there)
    assert made.status == Status.FAILED or made.retry_at is not None
    assert made.code in ("imports.source_invalid", "address.refused", "")


@pytest.mark.parametrize("body", [b"{}", b'{"token": 5}', b'{"token": "a\\r\\nb: c"}', b"[]", b"x" * 100_000])
def test_an_odd_token_is_not_used(shop: Any, world: Any, there: Upstream, ours: Ours, body: bytes) -> None:
    there.signs_in = "bearer"
    there.lies["/token"] = says(body)
    assert run(shop, world, there).code in ("imports.source_invalid", "address.answer_too_large")
