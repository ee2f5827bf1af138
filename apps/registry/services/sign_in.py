"""Who asks for a token of the registry: by name and secret, or by what an earlier sign-in left with the client."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from apps.core import events, throttle
from apps.core.clock import now
from apps.core.errors import Refused
from apps.registry.models import RefreshToken, Robot
from apps.registry.selectors import live_refresh_token, live_robot, robot_named
from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.selectors import live_token, note_use, token_digest

DOOR = "registry"
PREFIX = "brf_"
# Django's rule for user names, and the slashes of robots'.
_NAME = re.compile(r"[\w.@+/-]{1,150}")
#: Of one credential so many sign-ins are kept, the newest: each laptop and build server has one.
MOST = 100
#: Of the tenants of one person so many are told that somebody tries the person's name.
TOLD = 20


class SignInRefused(Refused):
    code = "registry.sign_in_refused"
    status = 401


@dataclass(frozen=True, slots=True)
class SignedIn:
    """By one of the two: a person's token, or a robot."""

    api_token: ApiToken | None = None
    robot: Robot | None = None

    @property
    def who(self) -> User | Robot:
        if self.robot is not None:
            return self.robot
        assert self.api_token is not None  # noqa: S101
        return self.api_token.user


def sign_in(*, name: str, secret: str, address: str) -> SignedIn:
    """By a person's name and API token, or a robot's name and secret. Raises SignInRefused, Throttled."""
    attempt = throttle.Attempt(DOOR, name, address)
    throttle.check(attempt)
    found = _found(name, secret)
    if found is None:
        if throttle.failed(attempt).began:
            _tell(name)
        raise SignInRefused(
            "The user name or the secret is not valid (any more). Give an API token with the scope registry, or a "
            "robot's secret, and not your password."
        )
    throttle.passed(attempt)
    return found


def sign_in_again(*, secret: str, address: str) -> SignedIn:
    """By what ``refresh_token_create`` made. Raises SignInRefused, Throttled."""
    # Each has a count of its own: one that ended on some build server keeps nobody else behind its address waiting.
    attempt = throttle.Attempt(DOOR, "refresh " + hashlib.sha256(secret.encode()).hexdigest()[:16], address)
    throttle.check(attempt)
    token = live_refresh_token(secret)
    if token is None:
        throttle.failed(attempt)
        raise SignInRefused("This sign-in has ended. Sign in again: docker login")
    _note_refresh(token)
    throttle.passed(attempt)
    if token.api_token is not None:
        note_use(token.api_token)
    elif token.robot is not None:
        _note_robot(token.robot)
    return SignedIn(api_token=token.api_token, robot=token.robot)


@transaction.atomic
def refresh_token_create(*, signed_in: SignedIn, client: str) -> str:
    """A secret for the client to keep: good for as long as it is used, and its credential is. Returns the secret."""
    secret = PREFIX + secrets.token_urlsafe(32)
    mine = RefreshToken.objects.filter(api_token=signed_in.api_token, robot=signed_in.robot)
    RefreshToken.objects.create(
        api_token=signed_in.api_token,
        robot=signed_in.robot,
        prefix=secret[:12],
        digest=token_digest(secret),
        client=client[:60],
        expires_at=now() + timedelta(days=settings.REGISTRY_REFRESH_DAYS),
    )
    mine.filter(expires_at__lte=now()).delete()
    if beyond := list(mine.order_by("-pk").values_list("pk", flat=True)[MOST:]):
        RefreshToken.objects.filter(pk__in=beyond).delete()
    return secret


def _found(name: str, secret: str) -> SignedIn | None:
    if not _NAME.fullmatch(name):
        return None
    if name.startswith("robot/"):
        robot = live_robot(name, secret)
        if robot is None:
            return None
        _note_robot(robot)
        return SignedIn(robot=robot)
    token = live_token(secret, ApiToken.Scope.REGISTRY)
    if token is None or not secrets.compare_digest(token.user.username.encode(), name.encode()):
        return None
    return SignedIn(api_token=token)


def _note_robot(robot: Robot) -> None:
    at = now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=at - timedelta(minutes=1))
    Robot.objects.filter(stale, pk=robot.pk).update(last_used_at=at)


def _note_refresh(token: RefreshToken) -> None:
    at = now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=at - timedelta(minutes=1))
    until = at + timedelta(days=settings.REGISTRY_REFRESH_DAYS)
    RefreshToken.objects.filter(stale, pk=token.pk).update(last_used_at=at, expires_at=until)


def _tell(name: str) -> None:
    """The tenants whose member or robot it is. Where there is no such name nobody is told: it may be a secret."""
    if not _NAME.fullmatch(name):
        return
    robot = robot_named(name)
    if robot is not None:
        tenants = [robot.tenant_id]
    else:
        members = Tenant.objects.filter(memberships__user__username=name, is_active=True)
        tenants = list(members.order_by("pk").values_list("pk", flat=True)[:TOLD])
    for tenant_id in tenants:
        events.record(
            "registry.sign_in_locked",
            f"Somebody failed to sign in to the registry as {name} again and again. They have to wait now; whoever has "
            "the right secret, and did not fail, does not.",
            level="warning",
            tenant_id=tenant_id,
        )
