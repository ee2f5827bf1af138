"""What a viewer may see of tenants."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import timedelta

from django.db.models import Q, QuerySet

from apps.core.clock import now
from apps.core.errors import Missing
from apps.core.models import Event
from apps.tenants.models import ApiToken, Membership, Quota, Tenant, User
from apps.tenants.permissions import Viewer, tenants_of

# What services.tokens makes: a prefix and 256 bits in URL-safe base64.
_SECRET = re.compile(r"brt_[A-Za-z0-9_-]{43}")


class TenantMissing(Missing):
    code = "tenants.not_found"


def tenant_visible_to(viewer: Viewer, slug: str) -> Tenant:
    """Raises TenantMissing, also for a tenant of others."""
    tenant = tenants_of(viewer).filter(slug=slug).first()
    if tenant is None:
        raise TenantMissing(f"There is no tenant {slug!r} that you are a member of.")
    return tenant


def tenants_visible_to(viewer: Viewer) -> QuerySet[Tenant]:
    return tenants_of(viewer).select_related("quota").order_by("slug")


def memberships_of(tenant: Tenant) -> QuerySet[Membership]:
    return tenant.memberships.select_related("user").order_by("user__username")


def events_of_tenant(tenant: Tenant) -> QuerySet[Event]:
    return Event.objects.filter(tenant_id=tenant.pk)


def quota_of(tenant_id: int) -> Quota:
    return Quota.objects.get(tenant_id=tenant_id)


def tokens_of(user: User) -> QuerySet[ApiToken]:
    return user.api_tokens.order_by("-id")


def token_digest(secret: str) -> str:
    """Tokens are 256 random bits, so that one round of SHA-256 is enough to keep."""
    return hashlib.sha256(secret.encode()).hexdigest()


def live_token(secret: str, scope: str) -> ApiToken | None:
    """The live token with this secret, if it has the scope and its user is active. Notes its use once a minute."""
    if not _SECRET.fullmatch(secret):
        return None
    token = ApiToken.objects.select_related("user").filter(prefix=secret[:12]).first()
    if token is None or not hmac.compare_digest(token.digest, token_digest(secret)):
        return None
    if not is_live(token, scope):
        return None
    note_use(token)
    return token


def is_live(token: ApiToken, scope: str) -> bool:
    """Whether it may still be used for this."""
    in_time = token.expires_at is None or token.expires_at > now()
    return in_time and scope in token.scopes and token.user.is_active


def note_use(token: ApiToken) -> None:
    """A write a minute, however often it is used."""
    at = now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=at - timedelta(minutes=1))
    ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=at)
