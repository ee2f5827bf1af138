"""Archives on their way: what is pushed in which order, and what happens to those that don't get there."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.registry import spool, uploading
from apps.registry.client import ImageRefused, RegistryUnavailable
from apps.registry.models import Repository, Upload, Version
from apps.registry.receiving import SenderGone, upload_receive
from apps.registry.services import uploads as services
from apps.registry.services.tokens import PushRefused, push_token
from apps.registry.services.versions import version_pushed
from apps.registry.uploading import upload_work, uploads_clean
from apps.tenants.models import Membership, Quota
from apps.tenants.services.tenants import QuotaExceeded
from tests import archives as make
from tests.archives import Layout, docker_save, entry, pax, tar_of

MIB = 1 << 20
Status = Upload.Status


class FakeRegistry:
    """What ``Push`` does, in memory: it refuses what a registry would refuse."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.log: list[str] = []
        self.error: Exception | None = None
        self.during: Any = None

    def __call__(self, repository: str, token: Any) -> FakeRegistry:
        assert repository == "shop"
        self.token = token
        return self

    def __enter__(self) -> FakeRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def has(self, digest: str) -> bool:
        self.token()
        return digest in self.blobs

    def blob(self, digest: str, size: int, chunks: Any) -> None:
        self.token()
        if self.error is not None:
            raise self.error
        body = b"".join(chunks)
        assert (make.digest(body), len(body)) == (digest, size)
        self.blobs[digest] = body
        self.log.append(digest)
        if self.during is not None:
            self.during()

    def manifest(self, reference: str, media_type: str, body: bytes) -> None:
        self.token()
        found = json.loads(body)
        for part in [*found.get("layers", []), *([found["config"]] if "config" in found else [])]:
            assert len(self.blobs[part["digest"]]) == part["size"]
        for child in found.get("manifests", []):
            assert child["digest"] in self.manifests
        self.manifests[reference] = self.manifests[make.digest(body)] = body
        self.log.append(reference)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    fake = FakeRegistry()
    monkeypatch.setattr(uploading, "Push", fake)
    return fake


@pytest.fixture
def shop(world: Any, tmp_path: Path, settings: Any, token_key: str) -> Repository:
    settings.UPLOAD_DIRECTORY = str(tmp_path / "spool")
    return Repository.objects.get(name=world.app("shop").slug)


def begun(shop: Repository, by: Any, **given: Any) -> Upload:
    values = {"repository": shop, "tag": "1.0", "by": by, "declared": None, "spool": spool.identity(), **given}
    return services.upload_begin(**values)


def parts_of(content: bytes, size: int = 1000) -> Any:
    parts = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    waiting = iter([*parts, b""])
    return lambda: next(waiting)


def sent(shop: Repository, by: Any, content: bytes, **given: Any) -> Upload:
    return upload_receive(upload=begun(shop, by, **given), read=parts_of(content, MIB), rest=lambda: None)


def files() -> list[str]:
    return sorted(path.name for path in spool.directory().iterdir() if path.suffix in (".upload", ".tar"))


def links() -> bytes:
    """As docker save wrote it for years: layers in directories, those that repeat as links to the first."""
    one = make.layer()
    settings = make.config(one, one)
    manifest = make.as_json([{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}])
    return (
        entry("a/", b"", b"5")
        + entry("a/VERSION", b"1.0")
        + entry("a/layer.tar", one)
        + entry("b/", b"", b"5")
        + entry("b/layer.tar", b"", b"2", b"../a/layer.tar")
        + pax(mtime="1700000000.123", comment="é")
        + entry("c.json", settings)
        + tar_of({"manifest.json": manifest})
        + bytes(10240)
    )


def both() -> bytes:
    """As docker save writes it now: a layout, and manifest.json beside it."""
    layout = Layout()
    image = layout.image(packed=False)
    (layer,) = json.loads(layout.files[f"blobs/sha256/{image['digest'][7:]}"])["layers"]
    name = f"blobs/sha256/{layer['digest'][7:]}"
    layout.files["manifest.json"] = make.as_json([{"Config": "x", "RepoTags": ["shop:1"], "Layers": [name]}])
    return layout.tar(image, {**image, "annotations": {"org.opencontainers.image.ref.name": "1"}})


def platforms() -> bytes:
    layout = Layout()
    image = layout.image(platform={"os": "linux"})
    other = layout.image(make.layer({"arm": b"64"}))
    said = layout.image(b"{}", packed=False, layer_type="application/vnd.in-toto+json")
    said["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    return layout.tar(layout.index(image, other, said))


def one_platform() -> bytes:
    """An image that was pulled for one platform, saved by an engine that keeps the whole index."""
    layout = Layout()
    away = make.described(b"elsewhere", make.OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"})
    return layout.tar(layout.index(layout.image(), away))


def with_dots() -> bytes:
    """``tar -c .`` in a layout's directory."""
    layout = Layout()
    image = layout.image()
    files = {**layout.files, "index.json": make.as_json(layout._index(image))}
    return entry("./", b"", b"5") + tar_of({f"./{name}": content for name, content in files.items()})


def many_streams() -> bytes:
    """eStargz packs each file of a layer by itself."""
    layer = make.layer({"a": b"a" * 5000, "b": b"b" * 5000})
    packed = b"".join(gzip.compress(layer[at : at + 700], mtime=0) for at in range(0, len(layer), 700))
    return tar_of({**docker_save(config=make.config(layer)), "0/layer.tar": packed})


GOOD = {
    "docker save": lambda: tar_of(docker_save(make.layer(), make.layer({"b": b"b" * 3 * MIB}))),
    "docker save with links": links,
    "docker save of today": both,
    "packed with gzip": lambda: gzip.compress(tar_of(docker_save())),
    "layout": lambda: (layout := Layout()).tar(layout.image()),
    "layout, layers not packed": lambda: (layout := Layout()).tar(layout.image(packed=False)),
    "several platforms": platforms,
    "one of several platforms": one_platform,
    "layout with dots": with_dots,
    "layers of many streams": many_streams,
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_archive_becomes_a_version_of_its_sender(
    kind: str, world: Any, shop: Repository, registry: FakeRegistry, nudges: Any
) -> None:
    upload = sent(shop, world.bob, GOOD[kind]())
    assert upload.status == Status.CHECKING
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code, upload.detail) == (Status.DONE, "", "")
    version = Version.objects.get(repository=shop)
    assert (version.tag, version.pushed_by, version.digest) == ("1.0", "bob", upload.digest)
    assert make.digest(registry.manifests["1.0"]) == upload.digest
    assert registry.log[-1] == "1.0", "the tag comes last: who pulls it finds all of it"
    assert upload.pushed_bytes == upload.image_bytes == sum(map(len, registry.blobs.values()))
    assert files() == []


def test_an_index_is_pushed_whole_and_one_platform_alone(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload_work(sent(shop, world.alice, platforms()).pk)
    assert len(json.loads(registry.manifests["1.0"])["manifests"]) == 3
    upload_work(sent(shop, world.alice, one_platform()).pk)
    assert "layers" in json.loads(registry.manifests["1.0"])


def test_the_spool_is_for_its_owner_only_and_names_nothing_that_was_typed(world: Any, shop: Repository) -> None:
    upload = sent(shop, world.alice, b"x" * 10, tag="my-tag")
    path = spool.received(upload.uid)
    assert path.read_bytes() == b"x" * 10
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.name == f"{upload.uid.hex}.upload"
    assert spool.identity() == spool.identity() == upload.spool


def test_what_the_registry_has_is_not_pushed_again(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    for _ in range(2):
        upload_work(sent(shop, world.alice, tar_of(docker_save())).pk)
    assert registry.log == [*registry.blobs, "1.0", "1.0"]
    assert Version.objects.count() == 1, "the same archive gives the same digest"


def test_a_registry_that_is_away_is_waited_for(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    registry.error = RegistryUnavailable("away")
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.status == Status.PUSHING
    assert list(services.uploads_to_work_on(10)) == [upload]
    registry.error = None
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.status == Status.DONE


def test_what_the_registry_refuses_has_failed(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    registry.error = ImageRefused("The registry refused what was pushed: MANIFEST_INVALID.")
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "registry.image_refused")
    event = Event.objects.get(code="upload.failed")
    assert (event.tenant_id, event.actor, event.detail["reason"]) == (shop.tenant_id, "alice", upload.code)
    assert files() == []


def test_who_may_not_push_any_more_pushes_nothing(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.bob, tar_of(docker_save()))
    Membership.objects.filter(user=world.bob).update(role="viewer")
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "uploads.not_allowed")
    assert not registry.log


def test_nothing_is_pushed_to_an_app_that_is_being_deleted(
    world: Any, shop: Repository, registry: FakeRegistry
) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    Repository.objects.update(deleting_at=now())
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.code == "uploads.not_allowed"
    assert not registry.log
    with pytest.raises(services.UploadRefused):
        begun(shop, world.alice)


def test_a_worker_that_does_not_see_the_spool_leaves_it_alone(
    world: Any, shop: Repository, registry: FakeRegistry, tmp_path: Path, settings: Any
) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    settings.UPLOAD_DIRECTORY = str(tmp_path / "of another machine")
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.status == Status.CHECKING


def test_a_file_that_is_gone_is_said_to_be_gone(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    spool.remove(upload.uid)
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "uploads.lost")


def test_a_repository_that_takes_no_pushes_takes_no_archives(
    world: Any, shop: Repository, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    monkeypatch.setattr("apps.registry.services.tokens.push_refusal", lambda repository: "The storage is full.")
    monkeypatch.setattr(services, "push_refusal", lambda repository: "The storage is full.")
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.code, upload.detail) == ("registry.push_refused", "The storage is full.")
    assert not registry.log
    with pytest.raises(PushRefused, match="full"):
        begun(shop, world.alice)


def test_what_was_given_up_meanwhile_becomes_no_version(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    registry.during = lambda: Upload.objects.update(status=Status.EXPIRED)
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.status == Status.EXPIRED
    assert not Version.objects.exists()


def test_a_worker_that_stops_leaves_it_to_the_next(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    upload_work(upload.pk, stopping=lambda: True)
    upload.refresh_from_db()
    assert (upload.status, upload.lease_until) == (Status.CHECKING, None)
    assert len(files()) == 1


def test_two_workers_do_not_push_one_archive(world: Any, shop: Repository, registry: FakeRegistry) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    Upload.objects.update(lease_owner="another", lease_until=now() + timedelta(seconds=10))
    upload_work(upload.pk)
    assert not registry.log


@pytest.mark.parametrize("status", Upload.OPEN)
def test_every_state_has_a_deadline(status: str, world: Any, shop: Repository) -> None:
    upload = sent(shop, world.alice, tar_of(docker_save()))
    Upload.objects.update(status=status, deadline_at=now() - timedelta(seconds=1), lease_until=None)
    assert services.uploads_expire() == 1
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.EXPIRED, "uploads.expired")
    assert uploads_clean() == 1
    assert files() == []


def test_one_whose_receiver_died_has_failed_and_its_file_goes(world: Any, shop: Repository) -> None:
    upload = begun(shop, world.alice)
    spool.create(spool.received(upload.uid)).close()
    assert services.uploads_expire() == 0, "it has only begun"
    assert uploads_clean() == 0
    Upload.objects.update(status_since=now() - timedelta(minutes=5), lease_until=now() - timedelta(minutes=1))
    assert services.uploads_expire() == 1
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "uploads.interrupted")
    assert uploads_clean() == 1


def test_one_that_is_still_being_sent_stays(world: Any, shop: Repository) -> None:
    begun(shop, world.alice)
    ago = now() - timedelta(minutes=5)
    Upload.objects.update(status_since=ago, lease_owner="portal", lease_until=now() + timedelta(seconds=5))
    assert services.uploads_expire() == 0


def test_a_tenant_has_so_many_at_once(world: Any, shop: Repository) -> None:
    for _ in range(2):
        begun(shop, world.alice)
    with pytest.raises(services.TooManyUploads):
        begun(shop, world.bob)
    other = Repository.objects.get(name=world.app("other", tenant=world.rival, by=world.charlie).slug)
    begun(other, world.charlie)
    Upload.objects.filter(tenant=world.acme).update(status=Status.FAILED)
    begun(shop, world.bob)


def test_storage_is_bounded_when_it_begins_and_before_it_is_pushed(
    world: Any, shop: Repository, registry: FakeRegistry
) -> None:
    Quota.objects.filter(tenant=world.acme).update(storage_mb=1, storage_bytes_used=MIB - 100)
    with pytest.raises(QuotaExceeded):
        begun(shop, world.alice, declared=200)
    upload = sent(shop, world.alice, tar_of(docker_save()))
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "quota.exceeded")
    assert not registry.log


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a/b", "x" * 129, "../x", "1.0\n"])
def test_a_tag_that_is_none_is_refused_first(tag: str, world: Any, shop: Repository) -> None:
    with pytest.raises(services.TagInvalid):
        begun(shop, world.alice, tag=tag)
    assert not Upload.objects.exists()


def refused(shop: Repository, by: Any, read: Any, **given: Any) -> str:
    upload = begun(shop, by, **given)
    with pytest.raises(services.BerthError) as caught:
        upload_receive(upload=upload, read=read, rest=lambda: None)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, caught.value.code)
    assert files() == [], "nothing is left of it"
    return caught.value.code


def test_more_than_the_limit_is_not_kept(world: Any, shop: Repository, settings: Any) -> None:
    settings.UPLOAD_MAX_MB = 1
    with pytest.raises(services.UploadTooLarge):
        begun(shop, world.alice, declared=MIB + 1)
    endless = 0

    def read() -> bytes:
        nonlocal endless
        endless += 1
        assert endless < 20, "it is read on"
        return bytes(100_000)

    assert refused(shop, world.alice, read) == "uploads.too_large"


def test_less_or_more_than_announced_or_nothing_is_refused(world: Any, shop: Repository) -> None:
    assert refused(shop, world.alice, parts_of(b"x" * 10), declared=11) == "uploads.interrupted"
    assert refused(shop, world.alice, parts_of(b"x" * 10), declared=9) == "uploads.interrupted"
    assert refused(shop, world.alice, parts_of(b"")) == "uploads.not_an_archive"


def test_a_connection_that_ends_leaves_nothing(world: Any, shop: Repository) -> None:
    parts = iter([b"x" * 10])

    def read() -> bytes:
        for part in parts:
            return part
        raise SenderGone

    assert refused(shop, world.alice, read) == "uploads.interrupted"


def test_a_disk_without_room_takes_nothing(world: Any, shop: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RESERVE", 1 << 60)
    assert refused(shop, world.alice, parts_of(b"x" * 10)) == "uploads.no_room"


def test_a_packed_archive_finds_no_room_either(
    world: Any, shop: Repository, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = sent(shop, world.alice, gzip.compress(tar_of(docker_save())))
    monkeypatch.setattr(spool, "RESERVE", 1 << 60)
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert (upload.status, upload.code) == (Status.FAILED, "uploads.no_room")
    assert files() == []


def test_the_token_is_for_pushing_to_this_repository_only(world: Any, shop: Repository) -> None:
    import jwt

    token = push_token("shop", world.bob)
    assert token is not None
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "bob"
    (access,) = claims["access"]
    assert (access["name"], sorted(access["actions"])) == ("shop", ["pull", "push"])
    for somebody in (world.vera, world.charlie):
        assert push_token("shop", somebody) is None
    assert push_token("nowhere", world.alice) is None


def test_ended_ones_are_forgotten_after_a_while(world: Any, shop: Repository) -> None:
    old, open_still = begun(shop, world.alice), begun(shop, world.alice)
    Upload.objects.update(status_since=now() - timedelta(days=31))
    Upload.objects.filter(pk=old.pk).update(status=Status.FAILED)
    assert services.uploads_forget() == 1
    assert list(Upload.objects.all()) == [open_still]


def test_files_of_nobody_are_removed_and_others_left(shop: Repository) -> None:
    spool.create(spool.received(uuid4())).close()
    spool.create(spool.unpacked(uuid4())).close()
    (spool.directory() / "notes.txt").write_text("an operator's")
    assert uploads_clean() == 2
    assert (spool.directory() / "notes.txt").exists()


def test_a_push_right_after_the_uploads_own_keeps_the_tag(
    world: Any, shop: Repository, registry: FakeRegistry, monkeypatch: Any
) -> None:
    digest = "sha256:" + "f" * 64
    real = registry.manifest

    def followed(reference: str, media_type: str, body: bytes) -> None:
        real(reference, media_type, body)
        if reference == "1.0":
            values = {"repository": "shop", "tag": "1.0", "digest": digest, "media_type": "", "pushed_by": "carla"}
            version_pushed(**values, pushed_at=now())

    monkeypatch.setattr(registry, "manifest", followed)
    upload = sent(shop, world.bob, tar_of(docker_save()))
    upload_work(upload.pk)
    upload.refresh_from_db()
    assert upload.status == Status.DONE
    assert Version.objects.get(is_current=True).digest == digest, "what the registry has"
