"""Whether a tenant's credential for another registry is good: asked by hand, answered while they wait."""

from __future__ import annotations

from apps.core.errors import BerthError
from apps.registry.foreign import sign_in
from apps.registry.models import ExternalRegistry
from apps.registry.references import Credential
from apps.registry.services.external import external_named, external_tested
from apps.tenants.models import Tenant, User
from apps.tenants.permissions import require_manager


def external_try(*, tenant: Tenant, name: str, by: User) -> ExternalRegistry:
    """Sign in there now, which takes 20 seconds at most; what came of it stands in the row.

    Raises Denied, ExternalMissing.
    """
    require_manager(by, tenant)
    found = external_named(tenant, name)
    code = ""
    try:
        sign_in(found.host, Credential(found.username, found.password))
    except BerthError as error:
        code = error.code
    external_tested(registry=found, code=code)
    return external_named(tenant, name)
