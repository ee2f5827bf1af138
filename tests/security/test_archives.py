"""Hostile archives: each gets an error of its own, nothing is written but the spool, and memory stays small."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.core.clock import after, now
from apps.registry import spool, uploading
from apps.registry.models import Repository, Upload
from tests import archives as make
from tests.archives import Layout, as_json, docker_save, entry, header, pax, record, tar_of

MIB = 1 << 20
#: Of each check, beside what was loaded before it.
MEMORY = 48 * MIB

GOOD = docker_save()
BAD: dict[str, tuple[Callable[[], bytes], str]] = {}


def bad(code: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def keep(made: Callable[[], bytes]) -> Callable[[], bytes]:
        assert made.__name__ not in BAD
        BAD[made.__name__] = (made, code)
        return made

    return keep


def simple(name: str, code: str, made: Callable[[], bytes]) -> None:
    assert name not in BAD
    BAD[name] = (made, code)


def beside(extra: bytes) -> bytes:
    """A good archive with something more in it."""
    return extra + tar_of(GOOD)


def docker_with(**changed: bytes) -> bytes:
    return tar_of(docker_save(**changed))


def manifest_json(**changed: Any) -> bytes:
    """A docker save whose manifest.json says something else of its image."""
    image = {"Config": "config.json", "RepoTags": ["shop:1"], "Layers": ["0/layer.tar"], **changed}
    return docker_with(manifest=as_json([image]))


def layout_with(**changed: Any) -> bytes:
    layout = Layout()
    return layout.tar(layout.image(**changed))


# Names ------------------------------------------------------------------------------------------------------------
for _name, _raw in {
    "traversal": "../../evil",
    "traversal_inside": "blobs/../../evil",
    "traversal_at_the_end": "blobs/..",
    "absolute": "/etc/cron.d/evil",
    "twice_absolute": ".//etc/evil",
    "empty_part": "a//b",
    "dot_part": "a/./b",
    "line_end": "a\nb",
    "escape_sequence": "a\x1b[2Jb",
    "backslash": "..\\evil",
    "empty_name": "",
}.items():
    simple(_name, "uploads.entry_refused", lambda raw=_raw: beside(entry(raw, b"x")))  # type: ignore[misc]
simple("not_utf8", "uploads.entry_refused", lambda: beside(entry(b"\xff\xfe", b"x")))
simple("zero_byte_in_pax", "uploads.entry_refused", lambda: beside(pax(path=b"a\0b") + entry("a", b"x")))
simple("traversal_in_pax", "uploads.entry_refused", lambda: beside(pax(path="../evil") + entry("a", b"x")))
simple("traversal_in_prefix", "uploads.entry_refused", lambda: beside(entry("evil", b"x", prefix=b"..")))
simple(
    "traversal_in_long_name",
    "uploads.entry_refused",
    lambda: beside(entry("././@LongLink", b"../" * 50 + b"evil\0", b"L") + entry("a", b"x")),
)
simple("name_of_a_thousand", "uploads.entry_refused", lambda: beside(pax(path="a" * 1000) + entry("a", b"x")))
simple("other_charset", "uploads.entry_refused", lambda: beside(pax(hdrcharset="BINARY") + entry("a", b"x")))
simple("two_of_one_name", "uploads.entry_refused", lambda: beside(entry("config.json", b"{}")))
simple("two_of_one_name_in_disguise", "uploads.entry_refused", lambda: beside(entry("./config.json", b"{}")))
simple("directory_and_file", "uploads.entry_refused", lambda: beside(entry("config.json/", b"", b"5")))

# Kinds ------------------------------------------------------------------------------------------------------------
for _name, _kind in {
    "character_device": b"3",
    "block_device": b"4",
    "pipe": b"6",
    "sparse": b"S",
    "unknown": b"Z",
}.items():
    simple(f"kind_{_name}", "uploads.entry_refused", lambda kind=_kind: beside(entry("a", b"", kind)))  # type: ignore[misc]
simple("global_header", "uploads.entry_refused", lambda: beside(entry("g", record(b"path", "x"), b"g")))
simple(
    "sparse_in_pax",
    "uploads.entry_refused",
    lambda: beside(entry("p", record(b"GNU.sparse.size", "1000000000000"), b"x") + entry("a", b"x")),
)
simple("link_out", "uploads.entry_refused", lambda: beside(entry("a", b"", b"2", b"../../etc/passwd")))
simple("link_absolute", "uploads.entry_refused", lambda: beside(entry("a", b"", b"2", b"/etc/passwd")))
simple("link_to_nothing", "uploads.entry_refused", lambda: beside(entry("a", b"", b"2", b"nowhere")))
simple("link_to_itself", "uploads.entry_refused", lambda: beside(entry("a", b"", b"2", b"a")))
simple(
    "links_in_a_ring",
    "uploads.entry_refused",
    lambda: beside(entry("a", b"", b"2", b"b") + entry("b", b"", b"2", b"a")),
)
simple("hard_link_out", "uploads.entry_refused", lambda: beside(entry("a", b"", b"1", b"../etc/shadow")))
simple(
    "write_through_a_link",
    "uploads.entry_refused",
    lambda: beside(entry("d", b"", b"2", b"/tmp") + entry("d/evil", b"x")),
)
simple("link_with_content", "uploads.archive_malformed", lambda: beside(entry("a", b"x", b"2", b"config.json")))

# Headers ----------------------------------------------------------------------------------------------------------
simple("nothing", "uploads.not_an_archive", lambda: b"x")
simple("text", "uploads.not_an_archive", lambda: b"hello world\n" * 1000)
simple("only_an_end", "uploads.no_image", lambda: make.END)
simple("zstd_outside", "uploads.not_an_archive", lambda: b"\x28\xb5\x2f\xfd" + bytes(100))
simple("zip_outside", "uploads.not_an_archive", lambda: b"PK\x03\x04" + bytes(100))
simple("wrong_check_sum", "uploads.archive_malformed", lambda: tar_of(GOOD)[:-1024] + b"x" * 512 + make.END)
simple(
    "negative_size",
    "uploads.archive_malformed",
    lambda: beside(header(b"a", size_field=b"\xff" * 11 + b"\xf0") + make.END),
)
simple("size_no_number", "uploads.archive_malformed", lambda: beside(header(b"a", size_field=b"12x45678901\0")))
simple("huge_size", "uploads.archive_truncated", lambda: beside(header(b"a", size_field=b"7" * 11 + b"\0")))
simple("size_of_exabytes", "uploads.archive_truncated", lambda: beside(header(b"a", size_field=b"\x80" + b"\x7f" * 11)))
simple("two_sizes", "uploads.archive_malformed", lambda: beside(pax(size="512") + entry("a", b"x" * 5)))
simple("size_negative_in_pax", "uploads.archive_malformed", lambda: beside(pax(size="-512") + entry("a", b"x")))
simple("cut", "uploads.archive_truncated", lambda: tar_of(GOOD)[:2000])
simple("cut_before_the_end", "uploads.archive_truncated", lambda: tar_of(GOOD)[:-1024])
simple("something_after_the_end", "uploads.archive_malformed", lambda: tar_of(GOOD) + tar_of({"evil": b"x"}))
simple("pax_without_entry", "uploads.archive_malformed", lambda: pax(path="a") + make.END)
simple("pax_broken", "uploads.archive_malformed", lambda: beside(entry("p", b"99 path=a\n", b"x") + entry("a", b"x")))
simple("pax_length_0", "uploads.archive_malformed", lambda: beside(entry("p", b"0 path=a\n", b"x") + entry("a", b"x")))
simple("pax_said_twice", "uploads.archive_malformed", lambda: beside(pax(path="a") + pax(path="b") + entry("c", b"x")))
simple("pax_of_megabytes", "uploads.archive_too_much", lambda: beside(pax(comment="x" * 5 * MIB) + entry("a", b"x")))
simple(
    "long_name_of_megabytes",
    "uploads.archive_too_much",
    lambda: beside(entry("l", b"x" * MIB, b"L") + entry("a", b"x")),
)
simple("too_many_entries", "uploads.archive_too_much", lambda: beside(b"".join(entry(f"n{n}") for n in range(10_001))))

# Bombs ------------------------------------------------------------------------------------------------------------
simple("gzip_outside", "uploads.archive_bomb", lambda: make.zeros_packed(200 * MIB))
simple("gzip_outside_beyond_the_limit", "uploads.archive_bomb", lambda: _slow_bomb())
simple("gzip_outside_cut", "uploads.archive_truncated", lambda: gzip.compress(tar_of(GOOD))[:-20])
simple("gzip_outside_damaged", "uploads.archive_malformed", lambda: gzip.compress(bytes(9999))[:15] + b"\xff" * 500)
simple("gzip_in_gzip", "uploads.not_an_archive", lambda: gzip.compress(gzip.compress(tar_of(GOOD))))
simple("archive_in_archive", "uploads.no_image", lambda: tar_of({"image.tar": tar_of(GOOD)}))
simple("gzip_pieces", "uploads.archive_bomb", lambda: gzip.compress(b"", mtime=0) * 100_001)
simple("many_layers_of_zeros", "uploads.archive_bomb", lambda: _many_bombs())


def _slow_bomb() -> bytes:
    """Below the ratio, beyond the limit of what an archive may have (64 MiB in these tests)."""
    import random

    noise = random.Random(1).randbytes(MIB)
    return b"".join(gzip.compress(noise + bytes(20 * MIB), 1) for _ in range(5))


@bad("uploads.archive_bomb")
def layer_of_zeros() -> bytes:
    size = 200 * MIB
    return docker_with_layer(make.zeros_packed(size), make.zeros_digest(size))


def docker_with_layer(stored: bytes, diff_id: str) -> bytes:
    settings = as_json(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "config": {}}
    )
    return tar_of({**docker_save(config=settings), "0/layer.tar": stored})


def _many_bombs() -> bytes:
    """Each layer below what one may unpack to; together beyond what an archive may (256 MiB in these tests)."""
    size = 50 * MIB
    diff_id = make.zeros_digest(size)
    settings = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id] * 6}}
    layers = {f"{n}/layer.tar": make.zeros_packed(size) for n in range(6)}
    manifest = as_json([{"Config": "config.json", "Layers": list(layers)}])
    return tar_of({**layers, "config.json": as_json(settings), "manifest.json": manifest})


# manifest.json ----------------------------------------------------------------------------------------------------
for _name, _body in {
    "no_json": b"hello",
    "not_utf8": b'"\xff"',
    "object": b"{}",
    "number": b"7",
    "null": b"null",
    "of_nulls": b"[null]",
    "deep": b"[" * 200_000,
    "deep_objects": b'{"a":' * 100_000,
    "nan": b"[NaN]",
    "long_number": b"[" + b"9" * 10_000 + b"]",
    "key_twice": b'[{"Config":"config.json","Config":"x","Layers":[]}]',
}.items():
    simple(
        f"manifest_{_name}",
        "uploads.manifest_invalid",
        lambda body=_body: docker_with(manifest=body),  # type: ignore[misc]
    )
simple("manifest_of_megabytes", "uploads.archive_too_much", lambda: docker_with(manifest=b"[" + b"[]," * MIB + b"[]]"))
simple("manifest_empty_list", "uploads.no_image", lambda: docker_with(manifest=b"[]"))
simple("config_a_number", "uploads.manifest_invalid", lambda: manifest_json(Config=7))
simple("config_outside", "uploads.manifest_invalid", lambda: manifest_json(Config="../../etc/passwd"))
simple("config_not_there", "uploads.blob_missing", lambda: manifest_json(Config="nowhere.json"))
simple("layers_no_list", "uploads.manifest_invalid", lambda: manifest_json(Layers="0/layer.tar"))
simple("layer_outside", "uploads.manifest_invalid", lambda: manifest_json(Layers=["/etc/passwd"]))
simple("layer_not_there", "uploads.blob_missing", lambda: manifest_json(Layers=["1/layer.tar"]))
simple("layers_126", "uploads.archive_too_much", lambda: manifest_json(Layers=["0/layer.tar"] * 126))
simple("layers_more_than_meant", "uploads.layers_mismatch", lambda: manifest_json(Layers=["0/layer.tar"] * 2))
simple("layer_of_others", "uploads.layers_mismatch", lambda: tar_of({**GOOD, "0/layer.tar": make.layer({"x": b"y"})}))
simple("layer_zstd", "uploads.layer_unsupported", lambda: tar_of({**GOOD, "0/layer.tar": b"\x28\xb5\x2f\xfd" * 9}))
simple(
    "two_images",
    "uploads.several_images",
    lambda: docker_with(manifest=as_json([{"Config": "config.json", "Layers": ["0/layer.tar"]}] * 2)),
)

# The image's configuration ----------------------------------------------------------------------------------------
for _name, _body, _code in (
    ("empty", b"", "uploads.manifest_invalid"),
    ("list", b"[]", "uploads.manifest_invalid"),
    ("nothing", b"{}", "uploads.not_an_image"),
    ("windows", make.config(make.layer(), os="windows"), "uploads.not_an_image"),
    ("no_architecture", make.config(make.layer(), architecture=""), "uploads.not_an_image"),
    ("no_layers", make.config(make.layer(), rootfs={"type": "tree"}), "uploads.not_an_image"),
    ("rootfs_a_list", make.config(make.layer(), rootfs=[]), "uploads.not_an_image"),
    (
        "diff_ids_wrong",
        make.config(make.layer(), rootfs={"type": "layers", "diff_ids": [7]}),
        "uploads.manifest_invalid",
    ),
    (
        "diff_ids_100000",
        make.config(rootfs={"type": "layers", "diff_ids": ["x"] * 100_000}),
        "uploads.archive_too_much",
    ),
):
    simple(f"config_{_name}", _code, lambda body=_body: docker_with_config(body))  # type: ignore[misc]


def docker_with_config(body: bytes) -> bytes:
    return tar_of({**GOOD, "config.json": body})


# OCI layouts ------------------------------------------------------------------------------------------------------
for _name, _top in {
    "no_json": b"x",
    "list": b"[]",
    "other_version": as_json({"schemaVersion": 1, "manifests": []}),
    "manifests_no_list": as_json({"schemaVersion": 2, "manifests": {}}),
    "manifests_of_nulls": as_json({"schemaVersion": 2, "manifests": [None]}),
}.items():
    simple(f"index_{_name}", "uploads.manifest_invalid", lambda top=_top: Layout().tar(top=top))  # type: ignore[misc]
simple("index_empty", "uploads.no_image", lambda: Layout().tar())
simple("layout_of_no_version", "uploads.no_image", lambda: tar_of({"index.json": b"{}"}))
simple(
    "layout_of_other_version",
    "uploads.manifest_invalid",
    lambda: tar_of({"oci-layout": as_json({"imageLayoutVersion": "9"}), "index.json": b"{}"}),
)


@bad("uploads.archive_too_much")
def index_of_1000() -> bytes:
    layout = Layout()
    return layout.tar(*[layout.image()] * 1000)


@bad("uploads.several_images")
def index_of_two() -> bytes:
    layout = Layout()
    return layout.tar(layout.image(), layout.image(make.layer({"other": b"x"})))


@bad("uploads.several_images")
def index_of_platforms_with_gaps() -> bytes:
    layout = Layout()
    here = layout.image(), layout.image(make.layer({"other": b"x"}))
    away = make.described(b"not here", make.OCI_MANIFEST)
    return layout.tar(layout.index(*here, away))


@bad("uploads.blob_missing")
def index_of_platforms_that_are_elsewhere() -> bytes:
    layout = Layout()
    return layout.tar(layout.index(make.described(b"a", make.OCI_MANIFEST), make.described(b"b", make.OCI_MANIFEST)))


@bad("uploads.manifest_invalid")
def index_in_index() -> bytes:
    layout = Layout()
    return layout.tar(layout.index(layout.index(layout.image())))


@bad("uploads.digest_mismatch")
def manifest_of_another_digest() -> bytes:
    layout = Layout()
    image = layout.image()
    name = f"blobs/sha256/{image['digest'][7:]}"
    layout.files[name] = layout.files[name].replace(b'"schemaVersion": 2', b'"schemaVersion": 3')
    return layout.tar(image)


@bad("uploads.digest_mismatch")
def layer_of_another_digest() -> bytes:
    layout = Layout()
    image = layout.image(packed=False)
    name = make.blob_name(make.layer())
    layout.files[name] = layout.files[name].replace(b"world", b"w0rld")
    return layout.tar(image)


@bad("uploads.blob_missing")
def layer_left_out() -> bytes:
    layout = Layout()
    image = layout.image(packed=False)
    del layout.files[make.blob_name(make.layer())]
    return layout.tar(image)


simple("manifest_of_another_size", "uploads.digest_mismatch", lambda: layout_with(described_as={"size": 7}))
simple("size_below_zero", "uploads.manifest_invalid", lambda: layout_with(described_as={"size": -1}))
simple("size_true", "uploads.manifest_invalid", lambda: layout_with(described_as={"size": True}))
simple("digest_outside", "uploads.manifest_invalid", lambda: layout_with(described_as={"digest": "sha256:../../etc"}))
simple("digest_sha512", "uploads.manifest_invalid", lambda: layout_with(described_as={"digest": "sha512:" + "0" * 128}))
simple(
    "digest_line_end",
    "uploads.manifest_invalid",
    lambda: layout_with(described_as={"digest": f"sha256:{'0' * 64}\n"}),
)
simple("manifest_of_schema_1", "uploads.manifest_invalid", lambda: layout_with(schemaVersion=1))
simple(
    "media_type_unknown", "uploads.not_an_image", lambda: layout_with(described_as={"mediaType": "application/x-sh"})
)
simple(
    "media_type_line_end",
    "uploads.manifest_invalid",
    lambda: layout_with(described_as={"mediaType": "application/x\r\nHost: evil"}),
)
simple("two_media_types", "uploads.manifest_invalid", lambda: layout_with(mediaType=make.OCI_INDEX))
simple("artifact", "uploads.not_an_image", lambda: layout_with(artifactType="application/vnd.example"))
simple("chart", "uploads.not_an_image", lambda: layout_with(config_type="application/vnd.cncf.helm.config.v1+json"))
simple(
    "foreign_layer",
    "uploads.layer_unsupported",
    lambda: layout_with(layer_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
)
simple(
    "layer_with_urls",
    "uploads.layer_unsupported",
    lambda: layout_with(of_layer={"urls": ["http://169.254.169.254/latest/meta-data"]}),
)
simple("layer_zstd_in_layout", "uploads.layer_unsupported", lambda: layout_with(layer_type=f"{make.OCI_LAYER}+zstd"))
simple("layer_packed_and_not_said", "uploads.layer_unsupported", lambda: layout_with(layer_type=make.OCI_LAYER))
simple("config_of_other_layers", "uploads.layers_mismatch", lambda: layout_with(config_=make.config(b"another")))
simple("no_layers", "uploads.not_an_image", lambda: layout_with(config_=make.config(), layers=[]))


# ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, settings: Any) -> Path:
    settings.UPLOAD_DIRECTORY = str(tmp_path / "spool")
    settings.UPLOAD_MAX_MB = 64
    settings.UPLOAD_UNPACKED_MB = 256
    return tmp_path


def _sent(world: Any, content: bytes) -> Upload:
    repository = Repository.objects.get(name=world.app("shop").slug)
    upload = Upload.objects.create(
        tenant=repository.tenant,
        repository=repository,
        by=world.alice,
        pushed_by="alice",
        tag="1.0",
        status=Upload.Status.CHECKING,
        status_since=now(),
        deadline_at=after(600),
        spool=spool.identity(),
    )
    with spool.create(spool.received(upload.uid)) as file:
        file.write(content)
    return upload


def _everything(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


class NoRegistry:
    def __init__(self, *_: object) -> None:
        raise AssertionError("something of a hostile archive reached the registry")


def test_there_are_many() -> None:
    assert len(BAD) >= 100


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_archive_is_refused(name: str, world: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "Push", NoRegistry)
    made, code = BAD[name]
    upload = _sent(world, made())
    before, most = _everything(place), 0

    def watched(count: int) -> bool:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in (place / "spool").iterdir()))
        return True

    sent = spool.received(upload.uid).stat().st_size
    monkeypatch.setattr(spool, "has_room", watched)
    tracemalloc.start()
    try:
        uploading.upload_work(upload.pk)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    upload.refresh_from_db()
    assert (upload.status, upload.code) == ("failed", code), upload.detail
    assert len(upload.detail) > 15
    assert upload.detail.isprintable()
    assert _everything(place) == before - {f"spool/{upload.uid.hex}.upload"}, "nothing is left, and nothing else there"
    assert memory < MEMORY
    assert most <= sent + 64 * MIB + MIB, "no more on disk than what was sent and what it may unpack to"


def test_errors_show_nothing_raw(world: Any, place: Path) -> None:
    upload = _sent(world, beside(entry("<script>\n\x1b[31m" * 5, b"x")))
    uploading.upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.detail.isprintable()
    assert upload.detail.isascii()


def test_every_refusal_of_an_archive_is_met() -> None:
    from apps.registry.archives.errors import ArchiveRefused

    assert {code for _, code in BAD.values()} == {one.code for one in ArchiveRefused.__subclasses__()}


def test_json_of_the_largest_size_stays_within_memory() -> None:
    from apps.registry.archives.documents import MAX_DOCUMENT, parsed

    body = b"[" + b"{}," * (MAX_DOCUMENT // 3 - 2) + b"{}]"
    tracemalloc.start()
    try:
        assert json.dumps(parsed(body, "it")[:1]) == "[{}]"
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
