"""What can be read of the registry's contents."""

from __future__ import annotations

import hmac
import re
from datetime import datetime
from uuid import UUID

from django.db.models import F, QuerySet

from apps.core.clock import now
from apps.core.errors import Missing
from apps.registry.models import RefreshToken, Repository, Robot, Upload, Version
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
    """All that was ever pushed under a tag, as far as it was told."""
    return sorted(set(Version.objects.filter(repository__name=repository_name).values_list("digest", flat=True)))


def tokens_until(repository_name: str) -> datetime | None:
    """When the last token that somebody was given for the repository has ended."""
    return Repository.objects.filter(name=repository_name).values_list("tokens_until", flat=True).first()


def repositories_to_list(limit: int) -> QuerySet[Repository]:
    """Those that were not compared with the registry for the longest time."""
    return Repository.objects.filter(deleting_at=None).order_by(F("listed_at").asc(nulls_first=True))[:limit]


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


def uploads_of(repository_name: str) -> QuerySet[Upload]:
    """Archives that were sent for the repository, newest first."""
    return Upload.objects.filter(repository__name=repository_name)


def upload_of(repository_name: str, uid: UUID) -> Upload:
    """Raises UploadMissing."""
    upload = uploads_of(repository_name).filter(uid=uid).first()
    if upload is None:
        raise UploadMissing(f"{repository_name} has no upload {uid}.")
    return upload
