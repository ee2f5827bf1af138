"""What can be read of the registry's contents."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, QuerySet

from apps.core.errors import Missing
from apps.registry.models import Repository, Version


class VersionMissing(Missing):
    code = "versions.not_found"


def repository_named(name: str) -> Repository | None:
    return Repository.objects.select_related("tenant").filter(name=name).first()


def versions_of(repository_name: str) -> QuerySet[Version]:
    """What the repository's tags name now, newest first."""
    return Version.objects.filter(repository__name=repository_name, is_current=True)


def version_of(repository_name: str, tag: str) -> Version:
    """What this tag names now. Raises VersionMissing."""
    version = versions_of(repository_name).filter(tag=tag).first()
    if version is None:
        raise VersionMissing(
            f"{repository_name} has no version {tag[:128]!r}. Push it first, or pick one of its versions.",
            version=tag[:128],
        )
    return version


def digests_of(repository_name: str) -> list[str]:
    """All that was ever pushed under a tag, as far as it was told."""
    return sorted(set(Version.objects.filter(repository__name=repository_name).values_list("digest", flat=True)))


def tokens_until(repository_name: str) -> datetime | None:
    """When the last token that somebody was given for the repository has ended."""
    return Repository.objects.filter(name=repository_name).values_list("tokens_until", flat=True).first()


def repositories_to_list(limit: int) -> QuerySet[Repository]:
    """Those that were not compared with the registry for the longest time."""
    return Repository.objects.filter(deleting_at=None).order_by(F("listed_at").asc(nulls_first=True))[:limit]
