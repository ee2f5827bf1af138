"""API tokens: made once, shown once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from apps.core.errors import Invalid, Missing
from apps.tenants.models import ApiToken, User
from apps.tenants.selectors import token_digest

PREFIX = "brt_"


class TokenInvalid(Invalid):
    code = "tokens.invalid"


class TokenMissing(Missing):
    code = "tokens.not_found"


@transaction.atomic
def token_create(
    *,
    user: User,
    name: str,
    scopes: Sequence[str] = (),
    expires_at: datetime | None = None,
    by_token: ApiToken | None = None,
) -> tuple[ApiToken, str]:
    """A new token and its secret, which nobody can read again. No scopes means all that the asker has.

    One that was asked for with a token may do no more and live no longer than that one. Raises TokenInvalid.
    """
    may = set(by_token.scopes) if by_token else set(ApiToken.Scope.values)
    wanted = sorted(set(scopes) or may)
    if beyond := set(wanted) - may:
        raise TokenInvalid(f"You can't give these scopes: {', '.join(sorted(beyond))}.")
    if by_token and by_token.expires_at:
        if expires_at and expires_at > by_token.expires_at:
            raise TokenInvalid("A token made with a token can't live longer than that one.")
        expires_at = expires_at or by_token.expires_at
    secret = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        user=user,
        name=name,
        prefix=secret[:12],
        digest=token_digest(secret),
        scopes=wanted,
        expires_at=expires_at,
    )
    return token, secret


def token_revoke(*, user: User, pk: int) -> None:
    """Ends one of the user's own tokens at once. Raises TokenMissing."""
    deleted, _ = ApiToken.objects.filter(user=user, pk=pk).delete()
    if not deleted:
        raise TokenMissing("You have no such token.")
