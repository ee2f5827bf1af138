"""What the registry holds of an app or a tenant, and where it runs: for the API and the pages, in few queries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Q, QuerySet

from apps.deployments.models import App, ReplicaSet
from apps.deployments.selectors import apps_visible_to
from apps.deployments.services.versions import Use, uses_of
from apps.registry.models import Manifest, Part, Repository, Version
from apps.registry.models.repositories import DIGEST, TAG
from apps.registry.selectors import VersionMissing, sizes_of_repositories
from apps.tenants.permissions import Viewer

#: Layers, and an index's images, that are shown of one version.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """``manifest`` is None, or of the kind "unknown", where the registry was not asked yet."""

    version: Version
    manifest: Manifest | None
    uses: tuple[Use, ...]
    #: Other tags that name the same image now.
    also: tuple[str, ...]

    @property
    def platforms(self) -> list[str]:
        return platform_words(self.manifest) if self.manifest else []


@dataclass(frozen=True, slots=True)
class VersionDetail:
    facts: VersionFacts
    layers: tuple[Part, ...]
    #: Of an index: its images and what else it names.
    images: tuple[Manifest, ...]

    @property
    def labels(self) -> list[tuple[str, str]]:
        """In pairs: a template that asks a mapping for its items gets the label of that name, where there is one."""
        manifest = self.facts.manifest
        return list(manifest.config.get("labels", {}).items()) if manifest else []


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    repository: Repository
    #: Bytes, each blob counted once.
    size_bytes: int
    versions: int
    pushed_at: datetime | None
    #: Releases of the app that run or are about to.
    uses: tuple[tuple[str, Use], ...]


def platform_words(manifest: Manifest) -> list[str]:
    return ["/".join(filter(None, (one["os"], one["architecture"], one["variant"]))) for one in manifest.platforms]


def versions_listed(app: App, *, replaced: bool = False) -> QuerySet[Version]:
    """What the app's tags name now; with ``replaced`` also what they named before and was not deleted."""
    rows = Version.objects.filter(repository__name=app.slug, deleting_at=None).select_related("repository")
    return rows if replaced else rows.filter(is_current=True)


def version_found(app: App, tag: str, digest: str = "") -> Version:
    """What the tag names now, or named under that digest. Raises VersionMissing."""
    found = None
    if re.fullmatch(TAG, tag) and (not digest or re.fullmatch(DIGEST, digest)):
        rows = versions_listed(app, replaced=bool(digest)).filter(tag=tag)
        found = (rows.filter(digest=digest) if digest else rows).first()
    if found is None:
        raise VersionMissing(f"{app.slug} has no version {tag[:128]!r}.", version=tag[:128])
    return found


def facts_of(versions: Sequence[Version]) -> list[VersionFacts]:
    """In the same order, in a fixed number of queries and one or two for each release in use."""
    pairs = {(one.repository_id, one.digest) for one in versions}
    repositories, digests = {pk for pk, _ in pairs}, {digest for _, digest in pairs}
    rows = Manifest.objects.filter(repository_id__in=repositories, digest__in=digests)
    manifests = {(one.repository_id, one.digest): one for one in rows}
    tags: dict[tuple[int, str], list[str]] = defaultdict(list)
    named = Version.objects.filter(repository_id__in=repositories, digest__in=digests, is_current=True).order_by("tag")
    for pk, digest, tag in named.values_list("repository_id", "digest", "tag"):
        tags[pk, digest].append(tag)
    uses = uses_of([one.pk for one in versions])
    return [
        VersionFacts(
            version=one,
            manifest=manifests.get((one.repository_id, one.digest)),
            uses=tuple(uses[one.pk]),
            also=tuple(tag for tag in tags[one.repository_id, one.digest] if tag != one.tag),
        )
        for one in versions
    ]


def detail_of(version: Version) -> VersionDetail:
    (facts,) = facts_of([version])
    if facts.manifest is None:
        return VersionDetail(facts, (), ())
    parts = list(facts.manifest.parts.all()[:MAX_SHOWN])
    layers = tuple(one for one in parts if one.kind == Part.Kind.LAYER)
    named = [one.digest for one in parts if one.kind == Part.Kind.MANIFEST]
    images = Manifest.objects.filter(repository_id=version.repository_id, digest__in=named).order_by("kind", "pk")
    return VersionDetail(facts, layers, tuple(images))


def repositories_visible_to(viewer: Viewer, tenant: str = "") -> QuerySet[Repository]:
    """Those of the apps that the viewer sees; of one tenant, where its slug is given."""
    apps = apps_visible_to(viewer)
    if tenant:
        apps = apps.filter(tenant__slug=tenant[:40])
    return (
        Repository.objects.filter(name__in=apps.order_by().values("slug"))
        .select_related("tenant")
        .annotate(
            versions_count=Count("versions", filter=Q(versions__is_current=True)),
            pushed_at=Max("versions__pushed_at"),
        )
        .order_by("name")
    )


def repository_facts(repositories: Sequence[Repository]) -> list[RepositoryFacts]:
    """Of rows that came from ``repositories_visible_to``, in the same order."""
    sizes = sizes_of_repositories([one.pk for one in repositories])
    running: dict[int, list[tuple[str, Use]]] = defaultdict(list)
    # Replica sets that may be in use: ``uses_of`` says for which reasons, if any.
    sets = ReplicaSet.objects.filter(app__slug__in=[one.name for one in repositories]).filter(
        Q(wanted__gt=0) | Q(weight__gt=0) | Q(retiring_until__isnull=False) | Q(instances__released=False)
    )
    in_use = Version.objects.filter(repository__in=repositories, releases__replica_set__in=sets.values("pk"))
    versions = {one.pk: one for one in in_use.distinct()}
    for pk, uses in uses_of(versions).items():
        running[versions[pk].repository_id] += [(versions[pk].tag, one) for one in uses]
    return [
        RepositoryFacts(
            repository=one,
            size_bytes=sizes.get(one.pk, 0),
            versions=vars(one)["versions_count"],
            pushed_at=vars(one)["pushed_at"],
            uses=tuple(running[one.pk]),
        )
        for one in repositories
    ]
