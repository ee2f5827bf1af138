"""Pushes to a real registry, with the registry restarted and its webhook's endpoint down in between: nothing is lost.

And what real clients push is described as what it is, and deleted as far as nothing else needs it.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.registry.tests.registry import CONFIG, LAYER, digest_of
from stack.catalogue import build
from stack.environment import REGISTRY_SERVICE, Environment
from stack.journey import Member, seed, wait_for
from stack.parts.python import manage
from stack.runner import Stack

pytestmark = pytest.mark.real

PARTS = ("postgres", "redis", "zookeeper", "registry", "web", "worker", "registry-worker", "beat")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CLIENTS, EACH = 10, 20
#: What the specification of this test allows, seconds.
WITHIN_S = 60


@dataclass
class Place:
    env: Environment
    stack: Stack
    owner: Member

    def told(self, code: str) -> Any:
        return json.loads(manage(self.env, "shell", "--no-imports", "-c", code).strip().splitlines()[-1])

    @property
    def registry(self) -> str:
        return f"https://127.0.0.1:{self.env.ports['registry']}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.env.registry_authority.pair.cert)

    def token(self, app: str, actions: str = "pull,push") -> str:
        reply = httpx.get(
            f"{self.env.portal_url}/api/registry/token",
            params={"service": REGISTRY_SERVICE, "scope": f"repository:{app}:{actions}"},
            auth=(self.owner.username, self.owner.token),
            trust_env=False,
            timeout=30,
        )
        reply.raise_for_status()
        return str(reply.json()["token"])

    def client(self, app: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(app)}"}
        return httpx.Client(base_url=self.registry, verify=self.trust, headers=headers, trust_env=False, timeout=10)

    def tags(self, app: str) -> set[str]:
        with self.client(app) as client:
            return set(client.get(f"/v2/{app}/tags/list").json().get("tags") or [])

    def versions(self, app: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        path = f"apps/{app}/versions/?page_size=200"
        while path:
            page = self.owner.request("GET", path)
            found |= {one["tag"]: one for one in page["results"]}
            path = page["next"] or ""
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    env = Environment.open(tmp_path_factory.mktemp("storm"))
    with Stack(env.directory, build(env, PARTS)) as stack:
        credentials = seed(env, ("acme",), [])
        (owner,) = [one for one in credentials["tenants"]["acme"] if one["role"] == "owner"]
        yield Place(env, stack, Member(env, owner["username"], owner["token"]))


@dataclass
class Storm:
    """What was pushed, and how far it is: whoever disturbs waits for numbers, and for no time."""

    place: Place
    app: str
    pushed: dict[str, str] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def reached(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.pushed) >= count, timeout=180)

    def client(self, number: int) -> None:
        with self.place.client(self.app) as http:
            for turn in range(EACH):
                self.push(http, f"c{number}-{turn}", f"client {number}, push {turn}")
                if turn % 5 == 4:
                    self.push(http, f"latest-{turn}", f"client {number}, the latest {turn}", counts=False)

    def push(self, http: httpx.Client, tag: str, text: str, *, counts: bool = True) -> None:
        """As a client that tries again while the registry is away."""
        deadline = time.monotonic() + 120
        while True:
            try:
                digest = self.try_push(http, tag, text)
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "the registry never came back"
                # It refuses at once while it starts: not as fast as this can ask.
                threading.Event().wait(0.1)
        with self.changed:
            if counts:
                self.pushed[tag] = digest
            self.changed.notify_all()

    def try_push(self, http: httpx.Client, tag: str, text: str) -> str:
        config = _blob(http, self.app, json.dumps({"os": "linux", "architecture": "amd64", "x": text}).encode())
        layer = _blob(http, self.app, text.encode())
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **config},
            "layers": [{"mediaType": LAYER, **layer}],
        }
        return _manifest(http, self.app, tag, body, MANIFEST)


def _blob(http: httpx.Client, app: str, body: bytes) -> dict[str, Any]:
    begun = http.post(f"/v2/{app}/blobs/uploads/")
    begun.raise_for_status()
    place = httpx.URL(begun.headers["Location"])
    digest = digest_of(body)
    http.put(place.copy_merge_params({"digest": digest}), content=body).raise_for_status()
    return {"digest": digest, "size": len(body)}


def _manifest(http: httpx.Client, app: str, name: str, body: dict[str, Any], kind: str) -> str:
    content = json.dumps(body).encode()
    name = name or digest_of(content)
    put = http.put(f"/v2/{app}/manifests/{name}", content=content, headers={"Content-Type": kind})
    put.raise_for_status()
    return str(put.headers["Docker-Content-Digest"])


def test_every_pushed_tag_is_a_version_though_registry_and_portal_were_away_and_none_is_there_twice(
    place: Place,
) -> None:
    place.owner.app_create("acme", "storm")
    storm = Storm(place, "storm")
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(storm.client, number) for number in range(CLIENTS)]
        storm.reached(40)
        place.stack.stop_part("web")
        storm.reached(80)
        # What it had still to tell the portal is lost with its memory.
        place.stack.restart("registry")
        storm.reached(140)
        place.stack.start_part("web")
        for one in clients:
            one.result(timeout=180)
    ended = time.monotonic()
    assert len(storm.pushed) == CLIENTS * EACH
    with place.client("storm") as http:
        tags = sorted(place.tags("storm"))
        accept = {"Accept": MANIFEST}
        heads = {tag: http.head(f"/v2/storm/manifests/{tag}", headers=accept) for tag in tags}
        held = {tag: reply.headers["Docker-Content-Digest"] for tag, reply in heads.items()}
    assert held.items() >= storm.pushed.items()

    def there() -> bool:
        found = place.versions("storm")
        return {tag: one["digest"] for tag, one in found.items()} == held

    left = WITHIN_S - (time.monotonic() - ended)
    wait_for("every pushed tag to be a version", there, left, every_s=0.5)
    print(f"{len(held)} tags are versions {time.monotonic() - ended:.1f} s after the last push")  # noqa: T201
    rows = place.told(
        "import json; from apps.registry.models import Version; "
        "print(json.dumps(list(Version.objects.filter(repository__name='storm', is_current=True)"
        ".values_list('tag', 'digest'))))"
    )
    assert len(rows) == len(held)
    counted = place.told(
        "from apps.registry.models import Version; from django.db.models import Count; "
        "print(Version.objects.filter(repository__name='storm').values('tag', 'digest')"
        ".annotate(n=Count('pk')).filter(n__gt=1).count())"
    )
    assert counted == 0

    def described() -> bool:
        return all(one["platforms"] == ["linux/amd64"] for one in place.versions("storm").values())

    wait_for("all of them to be described", described, WITHIN_S, every_s=0.5)


def _layout(directory: Path) -> None:
    """An OCI layout (opencontainers/image-spec, image-layout.md) with an index of two images and an attestation, and an
    artifact.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(body: bytes, kind: str, **more: Any) -> dict[str, Any]:
        (blobs / digest_of(body).removeprefix("sha256:")).write_bytes(body)
        return {"mediaType": kind, "digest": digest_of(body), "size": len(body), **more}

    def image(os: str, architecture: str, layer: str = LAYER, **more: Any) -> dict[str, Any]:
        settings = {"Labels": {"which": architecture}, "ExposedPorts": {"8080/tcp": {}}}
        rootfs = {"type": "layers", "diff_ids": [digest_of(architecture.encode())]}
        config = {"os": os, "architecture": architecture, "config": settings, "rootfs": rootfs}
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(json.dumps(config).encode(), CONFIG),
            "layers": [put(f"layer of {architecture}".encode(), layer)],
        }
        platform = {"os": os, "architecture": architecture}
        return put(json.dumps(body).encode(), MANIFEST, platform=platform, **more)

    named = [
        image("linux", "amd64"),
        image("linux", "arm64"),
        image(
            "unknown",
            "unknown",
            "application/vnd.in-toto+json",
            annotations={"vnd.docker.reference.type": "attestation-manifest"},
        ),
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": named}
    artifact = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(b"{}", "application/vnd.cncf.helm.config.v1+json"),
        "layers": [put(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }
    top = [
        put(json.dumps(index).encode(), INDEX, annotations={"org.opencontainers.image.ref.name": "multi"}),
        put(json.dumps(artifact).encode(), MANIFEST, annotations={"org.opencontainers.image.ref.name": "chart"}),
    ]
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": top}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.fixture
def copied(place: Place, tmp_path: Path) -> str:
    """An app whose repository skopeo copied the layout to."""
    layout, certificates = tmp_path / "layout", tmp_path / "certificates"
    _layout(layout)
    certificates.mkdir()
    shutil.copy(place.env.registry_authority.pair.cert, certificates / "ca.crt")
    app = f"copied-{tmp_path.name[-1]}"
    place.owner.app_create("acme", app)
    credentials = tmp_path / "auth.json"
    login = ["skopeo", "login", f"--authfile={credentials}", f"--cert-dir={certificates}"]
    registry = f"127.0.0.1:{place.env.ports['registry']}"
    user = ["--username", place.owner.username, "--password-stdin", registry]
    subprocess.run([*login, *user], input=place.owner.token, text=True, check=True, capture_output=True)
    for tag in ("multi", "chart"):
        source, target = f"oci:{layout}:{tag}", f"docker://{registry}/{app}:{tag}"
        copy = ["skopeo", "copy", "--all", f"--dest-cert-dir={certificates}", f"--dest-authfile={credentials}"]
        done = subprocess.run([*copy, source, target], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return app


def test_what_skopeo_copied_is_described_as_what_it_is_and_goes_when_it_is_deleted(place: Place, copied: str) -> None:
    def read() -> dict[str, dict[str, Any]]:
        found = place.versions(copied)
        kinds = {tag: one["kind"] for tag, one in found.items()}
        return found if kinds == {"multi": "index", "chart": "artifact"} else {}

    found = wait_for("both to be described", read, WITHIN_S, every_s=0.5)
    assert sorted(found["multi"]["platforms"]) == ["linux/amd64", "linux/arm64"]
    named = [("artifact",), ("image", "linux/amd64"), ("image", "linux/arm64")]

    def images_read() -> Any:
        shown = place.owner.request("GET", f"apps/{copied}/versions/multi/")["images"]
        return shown if sorted((one["kind"], *one["platforms"]) for one in shown) == named else None

    images = wait_for("its images to be described", images_read, WITHIN_S, every_s=0.5)
    with place.client(copied) as http:
        # Another tag of the same: a registry of this kind can only delete both, unless it is done as we do.
        body = http.get(f"/v2/{copied}/manifests/multi", headers={"Accept": INDEX}).content
        put = http.put(f"/v2/{copied}/manifests/again", content=body, headers={"Content-Type": INDEX})
        put.raise_for_status()
    wait_for("the other tag", lambda: "again" in place.versions(copied), WITHIN_S, every_s=0.5)
    assert place.owner.api.delete(f"apps/{copied}/versions/multi/").status_code == 204
    wait_for("the tag to go alone", lambda: place.tags(copied) == {"again", "chart"}, WITHIN_S, every_s=0.5)
    assert set(place.versions(copied)) == {"again", "chart"}
    assert place.owner.api.delete(f"apps/{copied}/versions/again/").status_code == 204
    wait_for("the other tag to go", lambda: place.tags(copied) == {"chart"}, WITHIN_S, every_s=0.5)

    def gone() -> bool:
        with place.client(copied) as http:
            accept = {"Accept": f"{MANIFEST}, {INDEX}"}
            digests = [found["multi"]["digest"], *(one["digest"] for one in images)]
            replies = [http.head(f"/v2/{copied}/manifests/{one}", headers=accept) for one in digests]
            return all(one.status_code == 404 for one in replies)

    wait_for("the index and its images to be gone", gone, WITHIN_S, every_s=0.5)
    left = place.told(
        "import json; from apps.registry.models import Manifest; "
        f"print(json.dumps(list(Manifest.objects.filter(repository__name={copied!r}).values_list('kind', flat=True))))"
    )
    assert left == ["artifact"]
