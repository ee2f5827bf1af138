"""Deleting a tenant, as far as tenants go: its apps are deployments' and its hosts are hosts'."""

from __future__ import annotations

from django.db import transaction

from apps.core import events, jobs
from apps.core.clock import now
from apps.core.errors import Conflict
from apps.tenants.models import Quota, Tenant


class TenantDeleting(Conflict):
    code = "tenants.deleting"


def not_deleting(tenant: Tenant) -> None:
    """Raises TenantDeleting. Of a tenant whose quota's row the caller has locked, this holds until it commits."""
    if tenant.deleting_at is not None:
        raise TenantDeleting(f"{tenant.slug} is being deleted: nothing can be made in it any more.")


def tenant_close(*, tenant: Tenant, by: str) -> bool:
    """From now on it is taken apart: part of the caller's transaction. False where it is already.

    Who creates an app holds the quota's row while looking at the tenant, so either that app is seen by what follows
    here, or its creation sees this.
    """
    Quota.objects.select_for_update().filter(tenant_id=tenant.pk).first()
    if not Tenant.objects.filter(pk=tenant.pk, deleting_at=None).update(deleting_at=now()):
        return False
    events.record("tenant.deleting", f"Tenant {tenant.slug} is being deleted.", tenant_id=tenant.pk, actor=by)
    jobs.enqueue(jobs.RECONCILE_TENANT, tenant.pk)
    return True


@transaction.atomic
def tenant_erase(*, tenant_id: int) -> bool:
    """Its rows, once nothing refers to them: memberships, quota, itself. People's accounts and its events stay.

    False where it is gone, or not being deleted. Raises ProtectedError where something is left in it.
    """
    tenant = Tenant.objects.select_for_update().filter(pk=tenant_id, deleting_at__isnull=False).first()
    if tenant is None:
        return False
    tenant.delete()
    events.record("tenant.deleted", f"Tenant {tenant.slug} was deleted.", tenant_id=tenant_id)
    return True
