"""What a collection leaves and takes, what goes on beside it, and that it may die anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress

import pytest

from apps.registry.storage import collect
from apps.registry.storage.collect import Busy, Collector, NoStorage, Rules
from apps.registry.storage.layout import Layout, Unreadable, digests_in

DAY = 86400.0
NOW = 2_000_000_000.0


class Registry:
    """Writes files as distribution's handlers do, in their order."""

    def __init__(self, root, at=NOW - 30 * DAY):
        self.layout = Layout(root)
        self.layout.repositories.mkdir(parents=True)
        self.at = at

    def _write(self, path, body):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        for one in (path, path.parent):
            os.utime(one, (self.at, self.at))

    def blob(self, body, repository="shop"):
        digest = hashlib.sha256(body).hexdigest()
        data = self.layout.blob(digest) / "data"
        if not data.exists():  # moveBlob: what is there already stays as it is
            self._write(data, body)
        self.link(digest, repository)
        return digest

    def link(self, digest, repository="shop"):
        self._write(self.layout.layer(repository, digest) / "link", b"sha256:" + digest.encode())

    def may_push(self, digests, repository="shop"):
        """What a manifest PUT verifies."""
        return all(
            (self.layout.layer(repository, one) / "link").exists() and (self.layout.blob(one) / "data").exists()
            for one in digests
        )

    def manifest(self, *layers, repository="shop"):
        body = json.dumps({"layers": [{"digest": f"sha256:{one}"} for one in layers]}).encode()
        digest = hashlib.sha256(body).hexdigest()
        data = self.layout.blob(digest) / "data"
        if not data.exists():
            self._write(data, body)
        self._write(self.layout.revision(repository, digest) / "link", b"sha256:" + digest.encode())
        return digest

    def manifest_delete(self, digest, repository="shop"):
        (self.layout.revision(repository, digest) / "link").unlink()
        os.utime(self.layout.revision(repository, digest), (self.at, self.at))

    def upload(self, size=10, repository="shop", at=NOW):
        path = self.layout.repositories / repository / "_uploads/some-id/data"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
        for one in (path, path.parent):
            os.utime(one, (at, at))

    def pulls(self, manifest, repository="shop"):
        """Whether all that the manifest names can be had."""
        data = self.layout.blob(manifest) / "data"
        if not (self.layout.revision(repository, manifest) / "link").exists() or not data.exists():
            return False
        return self.may_push(digests_in(data.read_bytes()), repository)

    def stored(self):
        return {digest for digest, _, _ in self.layout.stored()}


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


@pytest.fixture
def collector(tmp_path):
    def make(quiet=lambda name: True, sleep=lambda s: None, **values):
        rules = Rules(settle_s=0.0)
        return Collector(tmp_path, quiet=quiet, sleep=sleep, rules=rules, clock=lambda: NOW, **values)

    return make


@pytest.fixture
def passing(tmp_path):
    """A collector whose time passes while it waits, and what happens meanwhile."""

    def make(meanwhile, quiet=lambda name: True):
        at = [NOW]

        def sleep(seconds):
            at[0] += seconds
            meanwhile(seconds)

        return Collector(tmp_path, quiet=quiet, sleep=sleep, clock=lambda: at[0])

    return make


def test_what_no_manifest_names_goes_and_all_that_one_names_stays(registry, collector):
    kept, gone = registry.blob(b"kept"), registry.blob(b"gone")
    manifest = registry.manifest(kept)
    report = collector().run()
    assert registry.stored() == {kept, manifest}
    assert registry.pulls(manifest)
    assert (report.links, report.blobs, report.freed) == (1, 1, 4)
    assert not registry.layout.layer("shop", gone).exists()


def test_a_blob_that_another_repository_names_stays_and_only_the_link_goes(registry, collector):
    shared = registry.blob(b"shared")
    registry.link(shared, "other")
    manifest = registry.manifest(shared, repository="other")
    report = collector().run()
    assert registry.pulls(manifest, "other")
    assert not registry.layout.layer("shop", shared).exists()
    assert (report.links, report.blobs) == (1, 0)


def test_a_deleted_manifest_gives_back_its_own_bytes_and_its_layers(registry, collector):
    layer = registry.blob(b"layer")
    manifest = registry.manifest(layer)
    registry.manifest_delete(manifest)
    collector().run()
    assert registry.stored() == set()
    assert not registry.layout.revision("shop", manifest).exists()
    assert not registry.layout.layer("shop", layer).exists()


def test_names_of_repositories_may_have_slashes(registry, collector):
    kept, gone = registry.blob(b"kept", "team/shop"), registry.blob(b"gone", "team/shop")
    manifest = registry.manifest(kept, repository="team/shop")
    collector().run()
    assert registry.stored() == {kept, manifest}
    assert not registry.layout.layer("team/shop", gone).exists()


def test_what_was_written_within_the_grace_stays(registry, collector):
    registry.at = NOW - DAY + 60
    fresh = registry.blob(b"fresh")
    collector().run()
    assert registry.stored() == {fresh}
    assert registry.may_push([fresh])


def test_what_was_mounted_anew_within_the_grace_stays(registry, collector):
    old = registry.blob(b"old")
    registry.at = NOW - 60
    registry.link(old)
    collector().run()
    assert registry.may_push([old])


def test_a_repository_to_which_somebody_may_push_is_left_alone_for_a_week_and_no_longer(registry, collector):
    registry.at = NOW - 6 * DAY
    young = registry.blob(b"young")
    registry.at = NOW - 8 * DAY
    registry.blob(b"old")
    report = collector(quiet=lambda name: False).run()
    assert registry.stored() == {young}
    assert report.busy == ["shop"]


def test_a_repository_with_an_upload_under_way_is_left_alone(registry, collector):
    registry.at = NOW - 2 * DAY
    blob = registry.blob(b"blob")
    registry.upload()
    assert collector().run().busy == ["shop"]
    assert registry.stored() == {blob}


def test_whoever_may_push_from_the_very_moment_on_finds_all_that_was_there(registry, collector):
    """A token is given after the first question and before the links are moved: its owner has seen the blob."""
    blob = registry.blob(b"blob")
    answers = iter([True, False])
    report = collector(quiet=lambda name: next(answers)).run()
    assert registry.may_push([blob])
    assert report.busy == ["shop"]
    assert (report.links, report.blobs) == (0, 0)


def test_a_manifest_that_is_stored_while_its_blobs_are_moved_aside_has_them_again(registry, passing):
    """The registry looked for the blob before, and writes what names it after."""
    registry.at = NOW - 8 * DAY
    blob = registry.blob(b"blob")
    pushed = []

    def push(seconds):
        if not pushed:
            assert not registry.may_push([blob]), "it is aside"
            pushed.append(registry.manifest(blob))

    report = passing(push, quiet=lambda name: False).run()
    assert registry.pulls(pushed[0])
    assert report.restored == 2


def test_an_upload_of_content_that_is_just_moved_aside_keeps_it(registry, passing):
    """The registry found the data in place and did not write it again; then it writes its link."""
    body = b"content"
    digest = registry.blob(body)
    (registry.layout.layer("shop", digest) / "link").unlink()
    looks = []

    def link(seconds):
        if not looks:
            registry.link(digest, "other")
        looks.append(seconds)

    passing(link).run()
    assert looks
    assert registry.may_push([digest], "other")


def _as_it_is_moved(monkeypatch, registry, digest, act):
    """``act`` at the moment when the blob has just been moved aside."""
    move = collect._move

    def moved(source, target):
        done = move(source, target)
        if source == registry.layout.blob(digest):
            act()
        return done

    monkeypatch.setattr(collect, "_move", moved)


def test_what_an_upload_found_in_place_is_back_before_the_next_is_moved(registry, collector, monkeypatch):
    """It will write its link in a moment; until then all that shows is the upload, in its full size."""
    wanted, other = registry.blob(b"wanted"), registry.blob(b"others")
    for one in (wanted, other):
        (registry.layout.layer("shop", one) / "link").unlink()
    _as_it_is_moved(monkeypatch, registry, wanted, lambda: registry.upload(size=6, repository="new"))
    monkeypatch.setattr(collect, "AT_ONCE", 1)
    monkeypatch.setattr(Collector, "_settle", lambda self, report: None)
    collector().run()
    assert wanted in registry.stored()


def test_what_was_linked_since_links_were_counted_is_back_at_once(registry, collector, monkeypatch):
    wanted, other = registry.blob(b"wanted"), registry.blob(b"other")
    for one in (wanted, other):
        (registry.layout.layer("shop", one) / "link").unlink()
    _as_it_is_moved(monkeypatch, registry, wanted, lambda: registry.link(wanted, "new"))
    monkeypatch.setattr(Collector, "_settle", lambda self, report: None)
    assert collector().run().restored == 1
    assert registry.stored() == {wanted}


def test_a_manifest_that_can_not_be_read_keeps_all_of_its_repository_and_nothing_of_others(registry, collector):
    kept, manifest = registry.blob(b"kept"), registry.manifest()
    (registry.layout.blob(manifest) / "data").write_bytes(b'{"layers": [')
    registry.blob(b"gone", "other")
    report = collector().run()
    assert registry.stored() == {kept, manifest}
    assert len(report.unreadable) == 1


def test_a_disk_that_fails_ends_the_collection_before_anything_is_deleted(registry, collector, monkeypatch):
    blobs = {registry.blob(b"a"), registry.blob(b"b", "other")}
    named = Layout.named

    def fails(self, repository):
        if repository == "other":
            return named(self, repository)
        raise OSError("input/output error")

    monkeypatch.setattr(Layout, "named", fails)
    with pytest.raises(OSError, match="input/output"):
        collector().run()
    monkeypatch.undo()
    assert registry.stored() == blobs


def test_a_dry_run_says_what_goes_and_takes_nothing(registry, collector):
    blobs = {registry.blob(b"one"), registry.blob(b"three")}
    report = collector().run(dry_run=True)
    assert (report.links, report.blobs, report.freed) == (2, 2, 8)
    assert registry.stored() == blobs
    assert registry.may_push(blobs)


def test_only_one_collects_at_a_time(registry, collector):
    registry.blob(b"blob")

    def second(name):
        with pytest.raises(Busy):
            collector().run()
        return True

    assert collector(quiet=second).run().blobs == 1


def test_a_directory_without_a_registry_is_refused(tmp_path):
    with pytest.raises(NoStorage):
        Collector(tmp_path / "elsewhere", quiet=lambda name: True).run()


def test_what_is_stored_beside_what_is_counted_is_told(registry, collector):
    counted, beside = registry.blob(b"counted"), registry.blob(b"beside!")
    registry.manifest(counted, beside)
    registry.upload(size=100)
    report = collector(counted=lambda name: {counted}).run(dry_run=True)
    assert report.loose == {"shop": 107}


class Killed(BaseException):
    pass


def test_wherever_it_is_killed_nothing_that_is_named_is_lost_and_the_next_run_ends_the_work(tmp_path, monkeypatch):
    """At each of its renames and deletions in turn; a manifest comes in that names what is aside at that moment."""
    survived = 0
    for step in range(1, 40):
        root = tmp_path / str(step)
        registry = Registry(root)
        kept, late = registry.blob(b"kept"), registry.blob(b"late")
        manifest = registry.manifest(kept)
        for number in range(3):
            registry.blob(b"gone %d" % number)
        left = [step]

        def counted(real, *values, left=left, **named):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*values, **named)

        move, rmtree = collect._move, collect.shutil.rmtree
        monkeypatch.setattr(collect, "_move", lambda *a, f=counted, m=move: f(m, *a))
        monkeypatch.setattr(collect.shutil, "rmtree", lambda *a, f=counted, m=rmtree, **k: f(m, *a, **k))
        run = Collector(root, quiet=lambda name: True, rules=Rules(settle_s=0), clock=lambda: NOW).run
        with suppress(Killed):
            run()
            survived += 1
        monkeypatch.undo()
        assert registry.pulls(manifest)
        aside = root / collect.ASIDE
        named = (
            late
            if (aside / "links/shop" / late).exists()
            and ((aside / "blobs" / late).exists() or (registry.layout.blob(late) / "data").exists())
            else kept
        )
        second = registry.manifest(named, kept)
        run()
        assert registry.pulls(manifest)
        assert registry.pulls(second), f"killed at step {step}"
        assert registry.stored() == {kept, named, manifest, second}
    assert survived > 5, "it was killed at every step that there is"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": "sha256:%s"}', True),
        ('{"sha256:%s": 1}', True),
        ('{"a": "x", "a": "sha256:%s", "a": "y"}', True),
        ('[["sha256:%s"]]', True),
        ("{}", False),
    ],
)
def test_every_digest_in_a_manifest_counts_wherever_it_stands(text, found):
    digest = "0123456789abcdef" * 4
    assert digests_in((text % digest if found else text).encode()) == ({digest} if found else set())


def test_a_digest_that_is_written_with_escapes_counts():
    digest = "ab" * 32
    hidden = digest.replace("a", "\\u0061")
    assert digests_in(f'{{"layers": [{{"digest": "sh\\u0061256:{hidden}"}}]}}'.encode()) == {digest}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b" " * (4 * 1024 * 1024 + 1)])
def test_what_is_no_json_is_unreadable(body):
    with pytest.raises(Unreadable):
        digests_in(body)


def test_the_clock_of_the_grace_is_the_machines(registry, tmp_path):
    registry.at = time.time() - 2 * DAY
    registry.blob(b"old")
    assert Collector(tmp_path, quiet=lambda name: True, rules=Rules(settle_s=0)).run().blobs == 1
