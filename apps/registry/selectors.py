"""What can be read of the registry's contents."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import Case, F, Max, Q, QuerySet, Sum, When

from apps.core.clock import now
from apps.core.errors import Missing
from apps.registry.models import Manifest, Part, RefreshToken, Repository, Robot, Upload, Version
from apps.tenants.models import ApiToken, Tenant
from apps.tenants.selectors import is_live, token_digest

# What services.robots and services.sign_in make: a prefix and 256 bits in URL-safe base64.
_SECRET = re.compile(r"br[rf]_[A-Za-z0-9_-]{43}")


class VersionMissing(Missing):
    code = "versions.not_found"


class RobotMissing(Missing):
    code = "robots.not_found"


class UploadMissing(Missing):
    code = "uploads.not_found"


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
    """All that was ever pushed, under a tag or without, as far as it was told."""
    versions = Version.objects.filter(repository__name=repository_name).values_list("digest", flat=True)
    manifests = Manifest.objects.filter(repository__name=repository_name).values_list("digest", flat=True)
    return sorted({*versions, *manifests})


def tokens_until(repository_name: str) -> datetime | None:
    """When the last token that somebody was given for the repository has ended."""
    return Repository.objects.filter(name=repository_name).values_list("tokens_until", flat=True).first()


def robots_of(tenant: Tenant) -> QuerySet[Robot]:
    """For members of the tenant, who were found to be that."""
    return tenant.robots.select_related("tenant", "repository").order_by("name")


def robot_of(tenant: Tenant, name: str) -> Robot:
    """Raises RobotMissing."""
    robot = robots_of(tenant).filter(name=name).first()
    if robot is None:
        raise RobotMissing(f"{tenant.slug} has no robot {name[:60]!r}.")
    return robot


def robot_named(login: str) -> Robot | None:
    """By the user name that it gives: ``robot/{tenant}/{name}``."""
    kind, _, rest = login.partition("/")
    tenant, _, name = rest.partition("/")
    if kind != "robot" or not tenant or not name:
        return None
    return Robot.objects.select_related("tenant", "repository").filter(tenant__slug=tenant, name=name).first()


def live_robot(login: str, secret: str) -> Robot | None:
    """The robot of this name, if the secret is its own and it may still be used."""
    robot = robot_named(login) if _SECRET.fullmatch(secret) else None
    if robot is None or not hmac.compare_digest(robot.digest, token_digest(secret)):
        return None
    return robot if robot.is_live(now()) else None


def live_refresh_token(secret: str) -> RefreshToken | None:
    """The one with this secret, if it and what it was made from may still be used."""
    if not _SECRET.fullmatch(secret):
        return None
    found = RefreshToken.objects.select_related("api_token__user", "robot__tenant", "robot__repository")
    token = found.filter(prefix=secret[:12], expires_at__gt=now()).first()
    if token is None or not hmac.compare_digest(token.digest, token_digest(secret)):
        return None
    if token.api_token is not None:
        return token if is_live(token.api_token, ApiToken.Scope.REGISTRY) else None
    return token if token.robot is not None and token.robot.is_live(now()) else None


def repositories_to_list(limit: int) -> list[Repository]:
    """First those that somebody could have pushed to since they were compared with the registry; then the others. Of
    each, those that were not for the longest time.
    """
    rows = Repository.objects.filter(deleting_at=None)
    changed = Q(listed_at=None) | Q(tokens_until__gt=F("listed_at"))
    quiet = Case(When(changed, then=0), default=1)
    return list(rows.order_by(quiet, F("listed_at").asc(nulls_first=True))[:limit])


def manifests_to_describe(limit: int) -> list[int]:
    """Those that were never read, or are in doubt, and whose time has come; nobody waits for the same one for ever."""
    due = Q(describe_after=None) | Q(describe_after__lte=now())
    rows = Manifest.objects.filter(due, described_at=None, repository__deleting_at=None)
    return list(rows.order_by(F("describe_after").asc(nulls_first=True), "pk").values_list("pk", flat=True)[:limit])


def sizes_known(repository: Repository, digests: Iterable[str]) -> dict[str, int]:
    """Of those that a manifest of this repository names already: bytes as they are stored.

    Of no other repository: a manifest may name what its own does not hold (distribution takes any field that it does
    not know), and whoever pushed it would learn that a digest of somebody else's exists, and how large it is.
    """
    rows = Part.objects.filter(manifest__repository=repository, digest__in=list(digests), size_bytes__gt=0).order_by()
    return dict(rows.values_list("digest", "size_bytes").distinct())


def repositories_to_clean(limit: int) -> list[Repository]:
    """Those with versions or manifests to delete, in no order: one that can't be must not keep the others."""
    versions = Version.objects.filter(deleting_at__isnull=False, deleted_at=None)
    manifests = Manifest.objects.filter(deleting_at__isnull=False)
    rows = Repository.objects.filter(
        Q(pk__in=versions.values("repository")) | Q(pk__in=manifests.values("repository")), deleting_at=None
    )
    return list(rows.order_by("?")[:limit])


def versions_to_delete(repository: Repository) -> QuerySet[Version]:
    rows = Version.objects.filter(repository=repository, deleting_at__isnull=False, deleted_at=None)
    return rows.select_related("repository").order_by("pk")


def manifests_to_delete(repository: Repository) -> QuerySet[Manifest]:
    rows = Manifest.objects.filter(repository=repository, deleting_at__isnull=False)
    return rows.select_related("repository").order_by("pk")


def has_undescribed(repository: Repository) -> bool:
    """Whether there are manifests of which nobody knows yet what they name; those that are to go don't matter."""
    return Manifest.objects.filter(repository=repository, described_at=None, deleting_at=None).exists()


def sizes_of_repositories(ids: Sequence[int]) -> dict[int, int]:
    """Repository -> bytes as they are stored, each blob counted once; one that holds nothing is left out."""
    if not ids:
        return {}
    parts = (
        Part.objects.filter(manifest__repository__in=ids)
        .exclude(kind=Part.Kind.MANIFEST)
        .order_by()
        .annotate(repository=F("manifest__repository"))
        .values("repository", "digest")
        .annotate(size=Max("size_bytes"))
        .values("repository", "digest", "size")
    )
    sql, values = parts.query.sql_with_params()
    with connection.cursor() as cursor:
        # A sum over distinct rows of two tables: the ORM makes one sum of all of them, not one a repository.
        cursor.execute(f"SELECT repository, SUM(size) FROM ({sql}) AS blobs GROUP BY repository", values)  # noqa: S608
        found = {int(pk): int(size) for pk, size in cursor.fetchall()}
    own = Manifest.objects.filter(repository__in=ids).order_by().values_list("repository").annotate(Sum("own_bytes"))
    for pk, size in own:
        found[pk] = found.get(pk, 0) + size
    return found


# Storage ------------------------------------------------------------------------------------------------------


def storage_of(tenant_id: int) -> int:
    """Bytes of all that the tenant's manifests name, and of the manifests: each digest once, as the registry has it."""
    manifests = Manifest.objects.filter(repository__tenant_id=tenant_id).order_by()
    blobs = Part.objects.filter(manifest__repository__tenant_id=tenant_id).exclude(kind=Part.Kind.MANIFEST).order_by()
    own = manifests.values("digest").annotate(size=Max("own_bytes")).aggregate(total=Sum("size"))["total"]
    theirs = blobs.values("digest").annotate(size=Max("size_bytes")).aggregate(total=Sum("size"))["total"]
    return int(own or 0) + int(theirs or 0)


def loose_of(tenant_id: int) -> int:
    """Bytes that the tenant's repositories store and no manifest names, as the storage was seen last."""
    rows = Repository.objects.filter(tenant_id=tenant_id)
    return int(rows.aggregate(total=Sum("loose_bytes"))["total"] or 0)


def digests_counted(repository_name: str) -> set[str]:
    """Blobs that ``storage_of`` counts for the repository, without their "sha256:".

    Not those of no size: they were not there when their manifest was read, and may have been pushed since.
    """
    rows = Part.objects.filter(manifest__repository__name=repository_name, size_bytes__gt=0)
    parts = rows.values_list("digest", flat=True)
    return {digest.removeprefix("sha256:") for digest in parts}


def manifests_known(repository_name: str) -> set[str]:
    """The repository's manifests that there are rows of, without their "sha256:"."""
    known = Manifest.objects.filter(repository__name=repository_name).values_list("digest", flat=True)
    return {digest.removeprefix("sha256:") for digest in known}


def is_quiet(repository_name: str) -> bool:
    """Whether nobody holds a token for it. False for one that is not known: then nothing is known of its tokens."""
    found = Repository.objects.filter(name=repository_name).values_list("tokens_until", flat=True)[:1]
    return any(until is None or until < now() for until in found)


def repositories_unkept(before: datetime, limit: int) -> list[str]:
    """Names of those whose rules were not applied since, the longest ago first."""
    rows = Repository.objects.filter(deleting_at=None).exclude(cleaned_at__gte=before)
    return list(rows.order_by(F("cleaned_at").asc(nulls_first=True)).values_list("name", flat=True)[:limit])


def uploads_of(repository_name: str) -> QuerySet[Upload]:
    """Archives that were sent for the repository, newest first."""
    return Upload.objects.filter(repository__name=repository_name)


def upload_of(repository_name: str, uid: UUID) -> Upload:
    """Raises UploadMissing."""
    upload = uploads_of(repository_name).filter(uid=uid).first()
    if upload is None:
        raise UploadMissing(f"{repository_name} has no upload {uid}.")
    return upload
