"""What manifests are made of, as it was read from the registry: written down in one transaction each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q

from apps.core import jobs
from apps.core.clock import after, now
from apps.registry.models import Manifest, Part, Repository

#: A reading that takes longer, or whose process died, is begun anew by somebody else. Seconds.
READING_S = 120
#: Between two tries of one that can't be read: the first and the longest. Seconds.
TRY_AGAIN_S = 5
TRY_LAST_S = 3600
#: An index of indexes is followed so far; whoever builds a deeper one hides it from nobody but himself.
DEPTH = 4
#: So many indexes that name one manifest are kept up with, the newest: their owner alone sees old sizes of the others.
MAX_OVER = 200


@dataclass(frozen=True, slots=True)
class PartOf:
    digest: str
    kind: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Description:
    kind: str
    media_type: str
    own_bytes: int
    parts: Sequence[PartOf] = ()
    platforms: Sequence[Mapping[str, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def describe_claimed(*, manifest_id: int) -> Manifest | None:
    """The manifest, if it is to be read and nobody else is at it."""
    at = now()
    free = Manifest.objects.filter(pk=manifest_id, described_at=None, repository__deleting_at=None)
    free = free.filter(Q(describe_after=None) | Q(describe_after__lte=at))
    # By its key: an UPDATE can't join.
    if not Manifest.objects.filter(pk__in=free.values("pk")).update(describe_after=after(READING_S)):
        return None
    return Manifest.objects.select_related("repository").filter(pk=manifest_id).first()


def describe_failed(*, manifest: Manifest, away: bool) -> None:
    """To be tried again; later each time, unless the registry was not there at all (``away``)."""
    failures = manifest.describe_failures + (0 if away else 1)
    wait = TRY_AGAIN_S if away else min(TRY_LAST_S, TRY_AGAIN_S * 2 ** min(failures, 20))
    Manifest.objects.filter(pk=manifest.pk, described_at=None).update(
        describe_failures=failures, describe_after=after(wait)
    )


@transaction.atomic
def manifest_described(*, manifest: Manifest, description: Description) -> bool:
    """Write down what it is made of. An index's manifests get rows of their own, to be read in their turn.

    False where it is gone meanwhile, or somebody said so: then it is read anew.
    """
    Repository.objects.select_for_update().filter(pk=manifest.repository_id).first()
    row = Manifest.objects.select_related("repository").filter(pk=manifest.pk).first()
    if row is None or (row.described_at is None and row.describe_after is None):
        return False
    row.kind, row.own_bytes = description.kind, description.own_bytes
    row.media_type = description.media_type[:120] or row.media_type
    row.platforms, row.config = [dict(one) for one in description.platforms], dict(description.config)
    row.size_bytes = description.own_bytes + sum(one.size_bytes for one in description.parts)
    row.described_at, row.describe_after, row.describe_failures = now(), None, 0
    row.save(
        update_fields=[
            *("kind", "own_bytes", "media_type", "platforms", "config", "size_bytes"),
            *("described_at", "describe_after", "describe_failures"),
        ]
    )
    row.parts.all().delete()
    Part.objects.bulk_create(
        [
            Part(manifest=row, digest=one.digest, kind=one.kind, size_bytes=one.size_bytes, position=min(at, 32767))
            for at, one in enumerate(description.parts)
        ],
        batch_size=500,
    )
    _children_noted(row, description)
    _summed(row)
    jobs.enqueue(jobs.COUNT_STORAGE, manifest.repository.tenant_id)
    # Whoever waited to hear what it is.
    jobs.enqueue(jobs.DEPLOY_PUSHED, row.repository.name)
    return True


def _children_noted(index: Manifest, description: Description) -> None:
    named = [one.digest for one in description.parts if one.kind == Part.Kind.MANIFEST]
    rows = Manifest.objects.filter(repository_id=index.repository_id, digest__in=named)
    known = set(rows.values_list("digest", flat=True))
    if index.deleting_at is None:
        # One that was to be deleted is needed again.
        rows.exclude(deleting_at=None).update(deleting_at=None, described_at=None)
    for digest in named:
        if digest not in known:
            child = Manifest.objects.create(
                repository_id=index.repository_id, digest=digest, pushed_by=index.pushed_by, pushed_at=index.pushed_at
            )
            jobs.enqueue(jobs.DESCRIBE_MANIFEST, child.pk)


def _summed(manifest: Manifest) -> None:
    """An index is as large, and for those platforms, as what it names: worked out anew with each of these.

    Level by level, each index once in each: by paths, four levels of a hundred that all name each other are 100^4.
    """
    level = [manifest]
    for _ in range(DEPTH + 1):
        for one in level:
            if one.kind in (Manifest.Kind.INDEX, Manifest.Kind.ARTIFACT):
                _index_summed(one)
        over = Manifest.objects.filter(
            repository_id=manifest.repository_id,
            parts__kind=Part.Kind.MANIFEST,
            parts__digest__in=[one.digest for one in level],
        )
        level = list(over.order_by("-pk").distinct()[:MAX_OVER])


def _index_summed(index: Manifest) -> None:
    named = index.parts.filter(kind=Part.Kind.MANIFEST).values("digest")
    children = list(Manifest.objects.filter(repository_id=index.repository_id, digest__in=named))
    if not children:
        return
    inside = Part.objects.filter(manifest__in=[one.pk for one in children])
    # The same layer in two of its images is stored once.
    sizes = dict(inside.exclude(kind=Part.Kind.MANIFEST).values_list("digest", "size_bytes"))
    deeper = sum(one.size_bytes - one.own_bytes for one in children if one.kind == Manifest.Kind.INDEX)
    own = sum(index.parts.filter(kind=Part.Kind.MANIFEST).values_list("size_bytes", flat=True))
    index.size_bytes = index.own_bytes + own + sum(sizes.values()) + deeper
    if all(one.described_at for one in children):
        images = [one for one in children if one.kind in (Manifest.Kind.IMAGE, Manifest.Kind.INDEX)]
        index.kind = Manifest.Kind.INDEX if images else Manifest.Kind.ARTIFACT
        platforms = [] if not images else [*index.platforms, *(one for child in images for one in child.platforms)]
        index.platforms = _distinct(platforms)
    Manifest.objects.filter(pk=index.pk).update(size_bytes=index.size_bytes, kind=index.kind, platforms=index.platforms)


def _distinct(platforms: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in platforms:
        key = one["os"], one["architecture"], one["variant"]
        found.setdefault(key, dict(one))
    # Said once with a variant, and once without: one platform.
    return [
        one
        for (os_, architecture, variant), one in sorted(found.items())
        if variant or not any(key[:2] == (os_, architecture) and key[2] for key in found)
    ][:64]
