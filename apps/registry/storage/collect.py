"""Garbage collection of the registry's storage beside pushes that are under way. docs/decisions/0026 says why so.

Nothing is deleted where it lies. A link that no manifest of its repository names, and then a blob that no repository
links to, is first moved aside, by one rename. Then it is looked at again, until every request that could have seen it
before has long ended: what is named by now goes back. Only the rest is deleted. A run that is killed at any line leaves
things in their places or aside, and the next run begins with putting back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apps.registry.storage.layout import Layout, Unreadable

#: Beside docker/ in the root directory: the same file system, and nowhere that the registry looks.
ASIDE = "berth-aside"
#: A repository counts as pushed to while something came so lately: as long as a token lives, and more. Seconds.
ACTIVE_S = 900.0
#: Links or blobs that are moved before it is looked again whether somebody came to want one.
AT_ONCE = 10


class Busy(Exception):
    """Another collection is at work in this directory."""


class NoStorage(Exception):
    """The directory holds no registry."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds. ``grace_s``: what no manifest names stays so long after it was written. ``busy_s``: so long where the
    repository is never quiet. ``settle_s``: how long what was moved aside is looked at again before it is deleted;
    longer than any request to the registry takes between looking for a blob and writing what names it.
    """

    grace_s: float = 86400.0
    busy_s: float = 7 * 86400.0
    settle_s: float = 60.0
    look_s: float = 5.0
    #: How long the reading of a manifest that was pushed may take.
    counted_s: float = 300.0


@dataclass(slots=True)
class Report:
    """What went, or would go. ``loose``: repository -> bytes that it stores beside what is counted already, unfinished
    uploads included.
    """

    links: int = 0
    blobs: int = 0
    freed: int = 0
    restored: int = 0
    busy: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    loose: dict[str, int] = field(default_factory=dict)


class Collector:
    """``quiet`` says whether nobody may push to the repository now: no token for it is about. It is asked before and
    after links are moved; False for a repository that it does not know. ``counted`` are the blobs of a repository that
    its tenant's storage counts already, without their "sha256:". ``found`` is told each repository's manifests, and
    when they were pushed, in seconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        *,
        quiet: Callable[[str], bool],
        counted: Callable[[str], set[str]] = lambda repository: set(),
        found: Callable[[str, Mapping[str, float]], None] = lambda repository, revisions: None,
        rules: Rules = Rules(),
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.layout = Layout(root)
        self.links = root / ASIDE / "links"
        self.blobs = root / ASIDE / "blobs"
        self._quiet = quiet
        self._counted = counted
        self._found = found
        self._rules = rules
        self._clock = clock
        self._sleep = sleep

    def run(self, *, dry_run: bool = False) -> Report:
        """One collection. Raises Busy, NoStorage, and OSError where the disk does: then nothing more is moved."""
        if not self.layout.repositories.is_dir():
            raise NoStorage(f"{self.layout.root} holds no registry's storage (docker/registry/v2/repositories)")
        report = Report()
        with self._alone():
            if not dry_run:
                self._put_back(report)
            gone = {name: self._unlink(name, report, dry_run) for name in sorted(self.layout.repository_names())}
            self._unstore(report, gone, dry_run)
            if not dry_run:
                self._settle(report)
                self._empty(report)
        return report

    # --- moving aside ---

    def _unlink(self, repository: str, report: Report, dry_run: bool) -> set[str]:
        """Links of blobs that none of the repository's manifests names. Returns whose are moved, or would be."""
        layers = self.layout.layers(repository)
        self._weigh(repository, layers, report)
        self._found(repository, self.layout.revisions(repository))
        try:
            loose = layers.keys() - self.layout.named(repository)
        except Unreadable as error:
            report.unreadable.append(str(error))
            return set()
        quiet = self._is_quiet(repository)
        since = self._clock() - (self._rules.grace_s if quiet else self._rules.busy_s)
        going = {one for one in loose if layers[one] <= since}
        if not quiet and any(layers[one] <= self._clock() - self._rules.grace_s for one in loose - going):
            report.busy.append(repository)
        if not dry_run:
            self._unlinked(repository, going, quiet, report)
        report.links += len(going)
        return going

    def _unlinked(self, repository: str, going: set[str], quiet: bool, report: Report) -> None:
        """Move them aside, a few at a time, for as long as it stays quiet. What is left is taken out of ``going``."""
        left = sorted(going)
        while left:
            some, left = set(left[:AT_ONCE]), left[AT_ONCE:]
            for one in some:
                _move(self.layout.layer(repository, one), self.links / repository / one)
            # A token that was given in between may have shown somebody what is aside now: for him it is put back,
            # sooner than he can name it.
            if quiet and not self._is_quiet(repository):
                self._links_back(repository, some, report)
                going -= some | set(left)
                report.busy.append(repository)
                return
        if quiet:
            for hollow in list(self.layout.hollow(repository, self._clock() - self._rules.grace_s)):
                with contextlib.suppress(OSError):
                    hollow.rmdir()

    def _weigh(self, repository: str, layers: dict[str, float], report: Report) -> None:
        """What came just now is left to the reading of manifests, which counts it in a moment."""
        beside = {one for one, at in layers.items() if at <= self._clock() - self._rules.counted_s}
        beside -= self._counted(repository)
        uploads = sum(size for _, size in self.layout.uploads(repository))
        report.loose[repository] = uploads + sum(self.layout.size(one) for one in beside)

    def _is_quiet(self, repository: str) -> bool:
        """The same token, or the next, may be used for as long as an upload goes on, and for a while after it."""
        if not self._quiet(repository):
            return False
        since = self._clock() - min(ACTIVE_S, self._rules.grace_s)
        came = [at for at, _ in self.layout.uploads(repository)] + list(self.layout.layers(repository).values())
        return all(at <= since for at in came)

    def _unstore(self, report: Report, gone: dict[str, set[str]], dry_run: bool) -> None:
        """Blobs and manifests that no repository has a link to: nobody can see them."""
        linked = self.layout.linked(gone if dry_run else {})
        since = self._clock() - self._rules.grace_s
        going = [
            (digest, size)
            for digest, written, size in self.layout.stored()
            if bytes.fromhex(digest) not in linked and written <= since
        ]
        if dry_run:
            report.blobs, report.freed = len(going), sum(size for _, size in going)
            return
        for at in range(0, len(going), AT_ONCE):
            some = dict(going[at : at + AT_ONCE])
            for digest in some.keys() - self._wanted(some):
                _move(self.layout.blob(digest), self.blobs / digest)
            for digest in self._wanted(some):
                if _move(self.blobs / digest, self.layout.blob(digest)):
                    report.restored += 1

    def _wanted(self, blobs: dict[str, int]) -> set[str]:
        """Of these (digest -> bytes), those that an upload is about to link to, or did.

        The registry does not write again what it finds in place. But it keeps the upload until its link is written: so
        one that found the blob is still there, in its full size, or its link is. In this order.
        """
        repositories = list(self.layout.repository_names())
        coming = {size for one in repositories for _, size in self.layout.uploads(one)}
        return {
            digest
            for digest, size in blobs.items()
            if size in coming or any(self.layout.is_linked(one, digest) for one in repositories)
        }

    # --- looking again ---

    def _settle(self, report: Report) -> None:
        end = self._clock() + self._rules.settle_s
        self._put_back(report)
        while (left := end - self._clock()) > 0:
            self._sleep(min(self._rules.look_s, left))
            self._put_back(report)

    def _put_back(self, report: Report) -> None:
        """What is aside and is named by now: links first, since they name blobs."""
        for repository in self._repositories_aside():
            self._links_back(repository, None, report)
        aside = _names(self.blobs)
        if not aside:
            return
        linked = self.layout.linked()
        for digest in aside:
            if bytes.fromhex(digest) in linked and _move(self.blobs / digest, self.layout.blob(digest)):
                report.restored += 1

    def _links_back(self, repository: str, digests: set[str] | None, report: Report) -> None:
        """These; None is all that a manifest of the repository names, or where that can't be told, all."""
        aside = _names(self.links / repository)
        if digests is None and aside:
            try:
                digests = self.layout.named(repository)
            except Unreadable:
                digests = set(aside)
        for digest in set(aside) & (digests or set()):
            if _move(self.links / repository / digest, self.layout.layer(repository, digest)):
                report.restored += 1

    def _repositories_aside(self) -> list[str]:
        """A name may have slashes; what is in a repository's directory are digests."""
        found = []
        for here, directories, _ in os.walk(self.links):
            if any(len(name) == 64 for name in directories):
                found.append(str(Path(here).relative_to(self.links)))
                directories[:] = [name for name in directories if len(name) != 64]
        return found

    # --- the end of it ---

    def _empty(self, report: Report) -> None:
        shutil.rmtree(self.links, ignore_errors=True)
        for digest in _names(self.blobs):
            data = self.blobs / digest / "data"
            # One that a killed run had begun with has none any more.
            if data.exists():
                report.blobs += 1
                report.freed += data.stat().st_size
            shutil.rmtree(self.blobs / digest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.links.mkdir(parents=True, exist_ok=True)
        self.blobs.mkdir(parents=True, exist_ok=True)
        with (self.links.parent / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"another collection is at work in {self.layout.root}") from None
            yield


def _move(source: Path, target: Path) -> bool:
    """One rename of a directory. False where there is nothing (any more), or the target has been made anew: that has
    the same content, so what is left here is as good as deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    except OSError:
        if not target.is_dir() or not any(target.iterdir()):
            raise
        return False
    return True


def _names(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [one.name for one in path.iterdir()]
    return []
