"""What was pushed is read from the registry: kinds, platforms, sizes, and what comes of it when it is hostile."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.registry import content, describing
from apps.registry.content import MAX_LABELS, MAX_TEXT, OCI_INDEX, OCI_MANIFEST, read_config, read_manifest
from apps.registry.describing import manifest_describe, manifests_describe
from apps.registry.models import Manifest, Part, Repository, Version
from apps.registry.services import descriptions
from apps.registry.services.manifests import manifest_doubted, manifest_pushed
from apps.registry.services.versions import version_pushed
from apps.registry.tests.registry import DOCKER_MANIFEST, LAYER, digest_of, entry

ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}
AMD = {"os": "linux", "architecture": "amd64", "variant": ""}


def _pushed(digest, tag="", at=None):
    values = {"repository": "shop", "digest": digest, "media_type": "", "pushed_by": "bob", "pushed_at": at or now()}
    if tag:
        version_pushed(tag=tag, **values)
    else:
        manifest_pushed(**values)
    return Manifest.objects.get(digest=digest)


def _read(digest, **push):
    manifest = _pushed(digest, **push)
    assert manifest_describe(manifest.pk) is True
    manifest.refresh_from_db()
    return manifest


def _settle():
    while manifests_describe():
        pass


def test_an_image_says_what_it_is_made_of_and_how_it_starts(shop):
    config = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "created": "2026-01-02T03:04:05Z",
        "config": {
            "Labels": {"org.opencontainers.image.source": "https://example.com"},
            "ExposedPorts": {"8080/tcp": {}, "53/udp": {}, "80": {}, "x": {}, "99999/tcp": {}},
            "User": "app",
            "Entrypoint": ["/bin/app"],
            "Cmd": ["--serve"],
            "StopSignal": "SIGQUIT",
        },
    }
    digest = shop.image(b"one", b"three", tag="1.0", config=config)
    manifest = _read(digest, tag="1.0")
    body = len(shop.manifests[digest][0])
    blobs = len(json.dumps(config)) + len(b"one") + len(b"three")
    assert (manifest.kind, manifest.size_bytes, manifest.own_bytes) == ("image", body + blobs, body)
    assert manifest.platforms == [ARM]
    assert manifest.config == {
        "labels": {"org.opencontainers.image.source": "https://example.com"},
        "ports": ["53/udp", "80/tcp", "8080/tcp"],
        "user": "app",
        "entrypoint": ["/bin/app"],
        "command": ["--serve"],
        "stop_signal": "SIGQUIT",
        "created": "2026-01-02T03:04:05Z",
    }
    parts = list(manifest.parts.values_list("kind", "size_bytes"))
    assert parts == [("layer", 3), ("layer", 5), ("config", len(json.dumps(config)))]
    assert manifest_describe(manifest.pk) is False, "it was read"


def test_sizes_are_the_registrys_and_not_the_manifests_own_word(shop):
    layer = {"mediaType": LAYER, **shop.blob(b"x" * 1000), "size": 0}
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **shop.blob(b"{}"), "size": -(10**30)}
    digest = shop.manifest({"config": config, "layers": [layer, layer]})
    manifest = _read(digest)
    assert manifest.size_bytes == manifest.own_bytes + 1000 + 2
    asked = len(shop.requests)
    other = shop.manifest({"config": config, "layers": [layer], "annotations": {"another": "one"}})
    assert _read(other).size_bytes == len(shop.manifests[other][0]) + 1002
    assert [one for one in shop.requests[asked:] if one == ("HEAD", f"/v2/shop/blobs/{layer['digest']}")] == []


def test_an_index_is_for_the_platforms_of_its_images_and_counts_shared_layers_once(shop):
    arm = shop.image(b"shared", b"arm", config=ARM)
    amd = shop.image(b"shared", b"amd64", config=AMD)
    seen = shop.image(
        b"seen", layer="application/vnd.in-toto+json", config={"os": "unknown", "architecture": "unknown"}
    )
    index = shop.index(
        entry(arm, "linux", "arm64", variant="v8"),
        entry(amd),
        entry(seen, "unknown", "unknown"),
        tag="multi",
    )
    _pushed(index, tag="multi")
    _settle()
    found = Manifest.objects.get(digest=index)
    assert (found.kind, found.platforms) == ("index", [AMD, ARM])
    named = {one: len(shop.manifests[one][0]) for one in (index, arm, amd, seen)}
    blobs = {digest: len(body) for digest, body in shop.blobs.items()}
    assert found.size_bytes == sum(named.values()) + sum(blobs.values())
    assert dict(found.parts.values_list("digest", "size_bytes")) == {one: named[one] for one in (arm, amd, seen)}
    kinds = dict(Manifest.objects.values_list("digest", "kind"))
    assert kinds == {index: "index", arm: "image", amd: "image", seen: "artifact"}
    assert Manifest.objects.get(digest=arm).pushed_by == "bob"


def test_an_index_that_is_read_after_its_images_comes_to_the_same(shop):
    arm = shop.image(b"arm", config=ARM)
    _read(arm)
    index = shop.index(entry(arm), tag="multi")
    assert _read(index, tag="multi").platforms == [ARM]


def test_an_index_of_an_index_knows_its_platforms_too(shop):
    inner = shop.index(entry(shop.image(b"arm", config=ARM)))
    outer = shop.index(entry(inner), tag="multi")
    _pushed(outer, tag="multi")
    _settle()
    assert Manifest.objects.get(digest=outer).platforms == [ARM]


@pytest.mark.parametrize(
    "values",
    [
        {"config_type": "application/vnd.cncf.helm.config.v1+json", "layer": "application/vnd.cncf.helm.chart.content"},
        {"layer": "application/vnd.dev.cosign.simplesigning.v1+json"},
        {"artifactType": "application/vnd.example.sbom"},
        {"config_type": "application/vnd.oci.empty.v1+json"},
        {"config": {"os": "unknown", "architecture": "unknown"}, "layer": "application/vnd.in-toto+json"},
    ],
    ids=["helm chart", "cosign signature", "artifact type", "empty configuration", "attestation"],
)
def test_what_no_container_can_be_made_of_is_an_artifact(shop, values):
    manifest = _read(shop.image(b"data", tag="1.0", **values), tag="1.0")
    assert (manifest.kind, manifest.platforms, manifest.config) == ("artifact", [], {})
    assert manifest.parts.count() == 2, "and takes room all the same"


def test_an_index_of_artifacts_alone_is_one(shop):
    index = shop.index(entry(shop.image(b"sbom", artifactType="x/y")), tag="sboms")
    _pushed(index, tag="sboms")
    _settle()
    assert Manifest.objects.get(digest=index).kind == "artifact"


def test_dockers_own_format_is_an_image(shop):
    docker = "application/vnd.docker.container.image.v1+json"
    tar = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    manifest = _read(shop.image(b"x", config_type=docker, layer=tar, media_type=DOCKER_MANIFEST))
    assert (manifest.kind, manifest.media_type, manifest.platforms) == ("image", DOCKER_MANIFEST, [AMD])


D = "sha256:" + "d" * 64
HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"3",
    b"nonsense",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 100_000,
    b'{"layers": 3, "config": [], "manifests": {}}',
    b'{"layers": [null, 3, [], {"digest": 5}, {"digest": "../../etc"}], "config": {"digest": null}}',
    b'{"manifests": [null, {"digest": "sha256:zz"}, {"platform": 4}, []]}',
    b'{"manifests": [{"digest": "%s", "platform": {"os": {"a": 1}, "architecture": [1]}}]}' % D.encode(),
    b'{"manifests": [{"digest": "%s", "platform": {"os": "../x", "architecture": "\\u0000"}}]}' % D.encode(),
    b'{"mediaType": {"x": 1}, "artifactType": 9, "layers": null, "config": {"mediaType": 1, "digest": "%s"}}'
    % D.encode(),
    b'{"mediaType": "\\ud800\\u0000", "manifests": []}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX])
def test_a_manifest_of_any_shape_is_described_as_something(shop, body, media_type):
    manifest = _read(shop.manifest(body, media_type, tag="odd"), tag="odd")
    assert manifest.described_at is not None
    assert manifest.platforms == []
    assert manifest.size_bytes >= len(body)


CONFIGS = [
    *HOSTILE,
    b'{"os": 5, "architecture": {}, "config": [1]}',
    b'{"os": "linux", "architecture": "am/../d64", "config": {"Labels": [1], "ExposedPorts": "x", "Cmd": {"a": 1}}}',
    b'{"config": {"Labels": {"a": 1, "": "x"}, "Entrypoint": [1, null, {}], "User": ["x"], "StopSignal": 9}}',
    b'{"config": {"User": "a\\u0000b", "Labels": {"\\ud800": "\\udfff\\u0000"}}}',
]


@pytest.mark.parametrize("body", CONFIGS, ids=range(len(CONFIGS)))
def test_a_configuration_of_any_shape_leaves_an_image_without_platform(shop, body):
    manifest = _read(shop.image(b"layer", tag="odd", config=body), tag="odd")
    assert (manifest.kind, manifest.platforms) == ("image", [])
    assert "\0" not in json.dumps(manifest.config, ensure_ascii=False)


def test_what_is_kept_of_a_configuration_is_bounded():
    many = {f"label-{number}": "x" * 100_000 for number in range(1000)}
    raw = {"config": {"Labels": many, "Cmd": ["y" * 100_000] * 1000, "User": "z" * 100_000}}
    shown = read_config(json.dumps(raw).encode()).shown
    assert len(shown["labels"]) == MAX_LABELS
    assert len(json.dumps(shown)) < (MAX_LABELS * 2 + 10) * (MAX_TEXT + 20)


def test_a_manifest_that_names_very_much_is_cut(monkeypatch):
    monkeypatch.setattr(content, "MAX_PARTS", 3)
    layers = [{"digest": digest_of(str(number).encode())} for number in range(10)]
    assert len(read_manifest(json.dumps({"layers": layers}).encode(), "").parts) == 3


def test_a_configuration_that_is_too_large_is_not_read(shop, monkeypatch):
    monkeypatch.setattr(describing, "MAX_CONFIG", 100)
    manifest = _read(shop.image(b"x", config=json.dumps({**AMD, "x": "y" * 100}).encode()))
    assert (manifest.kind, manifest.platforms) == ("image", [])
    assert not any(method == "GET" and "/blobs/" in path for method, path in shop.requests)


def test_a_manifest_that_is_too_large_or_another_than_its_digest_says_is_tried_again_later_each_time(shop):
    digest = shop.image(b"x", tag="1.0")
    shop.manifests[digest] = (b"something else", OCI_MANIFEST)
    manifest = _pushed(digest, tag="1.0")
    waits = []
    for _ in range(3):
        Manifest.objects.update(describe_after=None)
        assert manifest_describe(manifest.pk) is False
        manifest.refresh_from_db()
        waits.append((manifest.describe_after - now()).total_seconds())
        assert manifest_describe(manifest.pk) is False, "not before its time"
    assert waits[0] < waits[1] < waits[2]
    assert manifest.describe_failures == 3
    assert manifest.described_at is None


def test_a_registry_that_is_away_counts_against_no_manifest_and_stops_the_sweep(shop):
    import httpx

    first, second = _pushed(shop.image(b"x")), _pushed(shop.image(b"y"))

    def away(request):
        raise httpx.ConnectError("refused")

    shop.before = away
    assert manifests_describe() == 0
    assert len(shop.requests) == 1
    shop.before = None
    Manifest.objects.update(describe_after=None)
    _settle()
    for one in (first, second):
        one.refresh_from_db()
        assert (one.describe_failures, one.kind) == (0, "image")


def test_one_reads_it_and_the_others_leave_it_alone_until_its_time_is_over(shop, monkeypatch):
    manifest = _pushed(shop.image(b"x"))
    assert descriptions.describe_claimed(manifest_id=manifest.pk) is not None
    assert manifest_describe(manifest.pk) is False
    assert manifests_describe() == 0
    Manifest.objects.update(describe_after=now() - timedelta(seconds=1))
    assert manifests_describe() == 1


def test_what_the_registry_has_no_more_is_forgotten(shop):
    digest = shop.image(b"x", tag="1.0")
    manifest = _read(digest, tag="1.0", at=now() - timedelta(seconds=5))
    del shop.manifests[digest]
    manifest_doubted(repository="shop", digest=digest)
    assert manifest_describe(manifest.pk) is True
    assert not Manifest.objects.exists()
    assert not Part.objects.exists()
    assert not Version.objects.filter(is_current=True).exists()


def test_a_repository_that_is_being_deleted_is_not_read(shop):
    from apps.registry.services.versions import repository_close

    manifest = _pushed(shop.image(b"x"))
    repository_close(name="shop")
    assert manifests_describe() == 0
    assert manifest_describe(manifest.pk) is False
    assert shop.requests == []


def test_nobody_learns_from_a_digest_what_another_repository_holds(world, shop):
    """Distribution 2.8 takes a field that it does not know, whatever digests it names."""
    foreign = world.app("rival-app", tenant=world.rival, by=world.charlie)
    theirs = digest_of(b"secret")
    row = Manifest.objects.create(
        repository=Repository.objects.get(name=foreign.slug), digest=f"sha256:{'7' * 64}", pushed_at=now()
    )
    Part.objects.create(manifest=row, digest=theirs, kind=Part.Kind.LAYER, size_bytes=123_456)
    manifest = _read(shop.image(b"one", blobs=[{"mediaType": LAYER, "digest": theirs, "size": 1}]))
    assert manifest.parts.get(digest=theirs).size_bytes == 0


def test_indexes_that_all_name_each_other_are_summed_once_a_level(shop, monkeypatch):
    """Otherwise by each way from below to above: a hundred in each of four levels would be 100 million."""
    below = [shop.image(b"one")]
    for level in range(4):
        entries = [entry(one) for one in below]
        below = [shop.index(*entries, annotations={"is": f"{level} {number}"}) for number in range(5)]
    for digest in shop.manifests:
        _pushed(digest)
    _settle()
    summed = []
    monkeypatch.setattr(descriptions, "_index_summed", summed.append)
    image = next(iter(shop.manifests))
    manifest_doubted(repository="shop", digest=image)
    assert manifest_describe(Manifest.objects.get(digest=image).pk) is True
    assert len(summed) == 4 * 5


def test_one_that_is_deleted_while_it_is_read_is_forgotten(shop):
    digest = shop.image(b"x")
    manifest = _pushed(digest)

    def deleted(request):
        # Of what was read already the registry says now that it is gone.
        if request.url.path.startswith("/v2/shop/blobs/") and shop.manifests.pop(digest, None):
            manifest_doubted(repository="shop", digest=digest)

    shop.before = deleted
    assert manifest_describe(manifest.pk) is False
    _settle()
    assert not Manifest.objects.exists(), "or its storage is counted for ever"
