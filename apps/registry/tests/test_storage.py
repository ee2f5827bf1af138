"""A tenant's storage: how it is counted, when a push is refused for it, and what the collection tells."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from apps.core.clock import now
from apps.core.models import Event
from apps.registry.models import Manifest, Part, Repository
from apps.registry.selectors import digests_of, is_quiet, storage_of
from apps.registry.services.quota import MIB, loose_noted, storage_count, storage_refusal, storage_sweep
from apps.registry.services.tokens import Access, granted_to, push_refusal
from apps.tenants.models import Quota


def digest(name):
    return "sha256:" + (name * 64)[:64]


def manifest(app, name, *blobs, own=100, kind=Part.Kind.LAYER):
    """``blobs``: pairs of a name and its bytes."""
    repository = Repository.objects.get(name=app.slug)
    row = Manifest.objects.create(repository=repository, digest=digest(name), pushed_at=now(), own_bytes=own)
    for blob, size in blobs:
        Part.objects.create(manifest=row, digest=digest(blob), kind=kind, size_bytes=size)
    return row


@pytest.fixture
def app(world):
    return world.app("shop")


def quota(world):
    return Quota.objects.get(tenant=world.acme)


def test_each_blob_and_manifest_counts_once_in_all_of_a_tenants_repositories(world, app):
    other, foreign = world.app("site"), world.app("rival-app", tenant=world.rival, by=world.charlie)
    manifest(app, "a", ("1", 1000), ("2", 500))
    manifest(app, "b", ("1", 1000), ("3", 30))
    manifest(other, "a", ("1", 1000), ("2", 500))
    manifest(foreign, "c", ("1", 1000), own=7)
    assert storage_of(world.acme.pk) == 1000 + 500 + 30 + 2 * 100
    assert storage_of(world.rival.pk) == 1007


def test_what_an_index_names_counts_by_its_own_rows(world, app):
    manifest(app, "a", ("1", 1000))
    manifest(app, "b", ("a", 100), own=50, kind=Part.Kind.MANIFEST)
    assert storage_of(world.acme.pk) == 1000 + 100 + 50


def test_the_count_is_written_down_and_what_no_manifest_names_is_in_it(world, app):
    manifest(app, "a", ("1", 1000))
    loose_noted(loose={"shop": 5000, "unknown": 3})
    assert quota(world).storage_bytes_used == 6100
    loose_noted(loose={"shop": 0})
    assert quota(world).storage_bytes_used == 1100


def test_a_push_is_refused_with_the_reason_once_the_tenant_is_over_and_not_before(world, app):
    repository = Repository.objects.get()
    Quota.objects.update(storage_mb=1)
    manifest(app, "a", ("1", MIB - 101))
    storage_count(tenant_id=world.acme.pk)
    assert storage_refusal(repository) is None
    row = manifest(app, "b", own=1)
    storage_count(tenant_id=world.acme.pk)
    assert "acme has used up its storage" in storage_refusal(repository)
    assert push_refusal(repository) == storage_refusal(repository), "what the token server says"
    row.delete()
    storage_count(tenant_id=world.acme.pk)
    assert storage_refusal(repository) is None


def test_that_it_is_used_up_is_told_once_and_once_when_there_is_room_again(world, app):
    Quota.objects.filter(tenant=world.acme).update(storage_mb=1)
    row = manifest(app, "a", ("1", 2 * MIB))
    for _ in range(3):
        storage_count(tenant_id=world.acme.pk)
    assert [one.code for one in Event.objects.filter(code__startswith="storage.")] == ["storage.over_quota"]
    row.delete()
    for _ in range(3):
        storage_count(tenant_id=world.acme.pk)
    codes = list(Event.objects.filter(code__startswith="storage.").order_by("pk").values_list("code", flat=True))
    assert codes == ["storage.over_quota", "storage.within_quota"]


def test_a_count_that_another_overtook_writes_nothing(world, app, monkeypatch):
    manifest(app, "a", ("1", 1000))

    def overtaken(tenant_id):
        Quota.objects.filter(tenant_id=tenant_id).update(storage_bytes_used=77)
        return 5

    monkeypatch.setattr("apps.registry.services.quota.storage_of", overtaken)
    assert storage_count(tenant_id=world.acme.pk) is None
    assert quota(world).storage_bytes_used == 77


def test_the_sweep_counts_for_everybody_in_turn(world, app):
    assert storage_sweep(limit=1) == 1
    assert storage_sweep(limit=1) == 1
    assert not Quota.objects.filter(storage_counted_at=None).exists()
    first = Quota.objects.order_by("storage_counted_at").first()
    storage_sweep(limit=1)
    assert Quota.objects.order_by("storage_counted_at").last() == first


def test_all_that_was_pushed_is_purged_also_what_only_a_digest_names(world, app):
    world.push(app, "1.0", "b" * 64)
    manifest(app, "a")
    assert digests_of("shop") == [digest("a"), digest("b")]


def test_a_repository_is_quiet_while_nobody_has_a_token_for_it(world, app, token_key):
    assert is_quiet("shop")
    granted_to(world.bob, [Access("shop", ("push",))])
    assert not is_quiet("shop")
    Repository.objects.update(tokens_until=now() - timedelta(seconds=1))
    assert is_quiet("shop")
    assert not is_quiet("unknown")


@pytest.fixture
def storage(tmp_path):
    """The configuration of a registry, and a function that stores a blob or a manifest in its directory."""
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path}\n")
    base = tmp_path / "docker/registry/v2"
    (base / "repositories/shop").mkdir(parents=True)

    def store(name, body, where):
        for path, text in (
            (base / "blobs/sha256" / (name * 2) / (name * 64) / "data", body),
            (base / f"repositories/shop/{where}/sha256" / (name * 64) / "link", digest(name).encode()),
        ):
            path.parent.mkdir(parents=True)
            path.write_bytes(text)

    return config, store


def _collect(config, **options):
    call_command("registry_collect", "--config", str(config), "--settle=0", **options)


def test_the_command_collects_and_tells_what_is_stored_beside_the_manifests(world, app, storage, capsys, tmp_path):
    config, store = storage
    store("1", b"x" * 1000, "_layers")
    store("2", b"x" * 30, "_layers")
    manifest(app, "a", ("2", 30))
    old = time.time() - 3600
    for link in tmp_path.glob("docker/registry/v2/repositories/shop/_layers/sha256/*/link"):
        os.utime(link, (old, old))
    _collect(config)
    assert Repository.objects.get().loose_bytes == 1000
    assert quota(world).storage_bytes_used == 1000 + 30 + 100
    capsys.readouterr()
    _collect(config, grace=0.0, json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["links"], told["blobs"], told["freed"]) == (2, 2, 1030)


def test_what_was_pushed_after_a_manifest_that_names_it_counts_too(world, app, storage, tmp_path):
    """When the manifest was read it was not there, so it had no size: a field that the registry does not know."""
    config, store = storage
    manifest(app, "a", ("1", 0))
    store("1", b"x" * 1000, "_layers")
    old = time.time() - 3600
    for link in tmp_path.glob("docker/registry/v2/repositories/shop/_layers/sha256/*/link"):
        os.utime(link, (old, old))
    _collect(config)
    assert quota(world).storage_bytes_used == 1000 + 100


def test_the_command_leaves_repositories_whose_tokens_are_about(world, app, storage, token_key, capsys):
    config, store = storage
    store("1", b"x", "_layers")
    granted_to(world.bob, [Access("shop", ("push",))])
    _collect(config, grace=0.0)
    assert "left for later, pushes are about: shop" in capsys.readouterr().out


def test_a_manifest_that_nobody_told_of_gets_a_row(world, app, storage):
    config, store = storage
    store("a", b"{}", "_manifests/revisions")
    _collect(config)
    assert Manifest.objects.get().digest == digest("a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("storage: {filesystem: {}, cache: {blobdescriptor: inmemory}}", "storage.cache"),
        ("storage: {s3: {bucket: x}}", "storage.filesystem"),
        ("[]", "storage.filesystem"),
        ("{", "can't be read"),
        ("storage: {filesystem: {rootdirectory: /nonexistent}}", "holds no registry"),
    ],
)
def test_a_registry_that_can_not_be_collected_is_refused(db, tmp_path, text, words):
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(CommandError, match=words):
        _collect(tmp_path / "config.yml")
