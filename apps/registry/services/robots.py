"""Robot accounts: made by owners and admins, shown once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from django.db import IntegrityError, transaction

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Conflict, Denied, Invalid
from apps.registry.models import Repository, Robot
from apps.registry.selectors import robot_of
from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.permissions import require_manager
from apps.tenants.selectors import token_digest
from apps.tenants.services.deleting import not_deleting
from apps.tenants.services.tenants import check_slug

PREFIX = "brr_"
MOST = 100


class RobotInvalid(Invalid):
    code = "robots.invalid"


class RobotNameTaken(Conflict):
    code = "robots.name_taken"


class RobotsTooMany(Conflict):
    code = "robots.too_many"


@transaction.atomic
def robot_create(
    *,
    tenant: Tenant,
    by: User,
    name: str,
    actions: Sequence[str] = (Robot.Action.PULL,),
    app: str = "",
    expires_at: datetime | None = None,
    by_token: ApiToken | None = None,
) -> tuple[Robot, str]:
    """A new robot and its secret, which nobody can read again. ``app`` is the only one that it reaches; empty for all.

    Asked for with a token, it lives no longer than that one, which must be good for the registry itself. Raises Denied,
    TenantDeleting, SlugInvalid, RobotInvalid, RobotNameTaken, RobotsTooMany.
    """
    require_manager(by, tenant)
    not_deleting(tenant)
    check_slug(name)
    known = [action for action in Robot.Action.values if action in actions]
    if not known or set(actions) - set(known):
        raise RobotInvalid("A robot may pull, push or delete, or several of these.", field="actions")
    repository = Repository.objects.filter(tenant=tenant, name=app, deleting_at=None).first() if app else None
    if app and repository is None:
        raise RobotInvalid(f"{tenant.slug} has no app {app[:60]!r}.", field="app")
    expires_at = _until(expires_at, by_token)
    if tenant.robots.count() >= MOST:
        raise RobotsTooMany(f"{tenant.slug} has {MOST} robots already. Delete some first.")
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        with transaction.atomic():
            robot = Robot.objects.create(
                tenant=tenant,
                repository=repository,
                name=name,
                actions=known,
                prefix=secret[:12],
                digest=token_digest(secret),
                created_by=by.username,
                expires_at=expires_at,
            )
    except IntegrityError:
        raise RobotNameTaken(f"{tenant.slug} has a robot {name!r} already.") from None
    where = app or "all apps"
    events.record(
        "robot.created",
        f"The robot {name} was made: {', '.join(known)} on {where}.",
        tenant_id=tenant.pk,
        actor=by.username,
    )
    return robot, secret


@transaction.atomic
def robot_renew(*, tenant: Tenant, by: User, name: str, by_token: ApiToken | None = None) -> tuple[Robot, str]:
    """A new secret for the robot; the old one, and all sign-ins by it, end at once. Raises Denied, RobotMissing."""
    require_manager(by, tenant)
    robot = robot_of(tenant, name)
    _until(robot.expires_at, by_token, fixed=True)
    secret = PREFIX + secrets.token_urlsafe(32)
    robot.prefix, robot.digest = secret[:12], token_digest(secret)
    robot.save(update_fields=["prefix", "digest"])
    robot.refresh_tokens.all().delete()
    events.record("robot.renewed", f"The robot {name} got a new secret.", tenant_id=tenant.pk, actor=by.username)
    return robot, secret


@transaction.atomic
def robot_delete(*, tenant: Tenant, by: User, name: str) -> None:
    """It, and all sign-ins by it, end at once. Raises Denied, RobotMissing."""
    require_manager(by, tenant)
    robot_of(tenant, name).delete()
    events.record("robot.deleted", f"The robot {name} was deleted.", tenant_id=tenant.pk, actor=by.username)


def _until(wanted: datetime | None, by_token: ApiToken | None, *, fixed: bool = False) -> datetime | None:
    """When it is to end: in time to come, and not after the token by which it was asked for."""
    if wanted is not None and wanted <= now() and not fixed:
        raise RobotInvalid("The robot would have ended already.", field="expires_at")
    if by_token is None:
        return wanted
    if ApiToken.Scope.REGISTRY not in by_token.scopes:
        raise Denied("This token is not for the registry, so it can't give a robot's secret out.")
    if by_token.expires_at is None:
        return wanted
    if (wanted is None and fixed) or (wanted is not None and wanted > by_token.expires_at):
        raise RobotInvalid("A robot's secret asked for with a token can't live longer than that one.")
    return wanted or by_token.expires_at
