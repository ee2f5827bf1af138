"""Changes to tenants, their members and their quotas."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet

from apps.core import compiled, events
from apps.core.errors import Conflict, Invalid
from apps.tenants.models import Membership, Plan, Quota, Role, Tenant, User
from apps.tenants.models.tenants import valid_slug


class SlugTaken(Conflict):
    code = "slug.taken"


class SlugInvalid(Invalid):
    code = "slug.invalid"


class QuotaExceeded(Conflict):
    code = "quota.exceeded"


def check_slug(slug: str) -> str:
    """Raises SlugInvalid with the rule in its words."""
    try:
        valid_slug(slug)
    except ValidationError as error:
        raise SlugInvalid(f"{slug[:60]!r} can't be used: {error.messages[0]}", slug=slug[:60]) from None
    return slug


@transaction.atomic
def tenant_create(*, slug: str, name: str, plan: Plan, owner: User, by: str = "") -> Tenant:
    """A tenant with its quota and its first owner. Raises SlugInvalid, SlugTaken."""
    check_slug(slug)
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(slug=slug, name=name, plan=plan)
    except IntegrityError:
        raise SlugTaken(f"The tenant {slug!r} exists already.") from None
    quota_from_plan(tenant=tenant)
    Membership.objects.create(tenant=tenant, user=owner, role=Role.OWNER)
    events.record("tenant.created", f"Tenant {slug} was created.", tenant_id=tenant.pk, actor=by)
    return tenant


def quota_from_plan(*, tenant: Tenant) -> Quota:
    """The tenant's quota, made from its plan where it has none yet."""
    plan = tenant.plan
    quota, _ = Quota.objects.get_or_create(
        tenant=tenant,
        defaults={
            "memory_mb": plan.memory_mb,
            "cpu_millis": plan.cpu_millis,
            "instances": plan.instances,
            "apps": plan.apps,
            "storage_mb": plan.storage_mb,
        },
    )
    return quota


@transaction.atomic
def member_add(*, tenant: Tenant, user: User, role: str, by: str = "") -> Membership:
    """Adds the person, or changes the role of a member."""
    membership, _ = Membership.objects.update_or_create(tenant=tenant, user=user, defaults={"role": role})
    events.record(
        "tenant.member_added",
        f"{user.username} is now {role} of {tenant.slug}.",
        tenant_id=tenant.pk,
        actor=by,
    )
    return membership


def quota_fitting(*, tenant_id: int, memory_mb: int, cpu_millis: int, instances: int) -> int:
    """How many of so many like instances the quota has room for right now: at least one.

    Raises QuotaExceeded where it has room for none. What is claimed then may still be refused.
    """
    quota = Quota.objects.get(tenant_id=tenant_id)
    left = (
        (quota.memory_mb - quota.memory_mb_used) * instances // memory_mb,
        (quota.cpu_millis - quota.cpu_millis_used) * instances // cpu_millis,
        quota.instances - quota.instances_used,
    )
    fitting = min(*left, instances)
    if fitting < 1:
        raise _exceeded(quota, memory_mb // instances, cpu_millis // instances, 1)
    return fitting


def quota_claim(*, tenant_id: int, memory_mb: int, cpu_millis: int, instances: int, beyond: bool = False) -> None:
    """Take from the tenant's quota, within the caller's transaction. Raises QuotaExceeded with what is left.

    ``beyond`` takes it whatever is left: where the platform moves an instance there are two of it for a moment.
    """
    values = {"tenant_id": tenant_id, "memory_mb": memory_mb, "cpu_millis": cpu_millis, "instances": instances}
    changed = compiled.update(_claim_beyond if beyond else _claim_within, values)
    if changed:
        return
    raise _exceeded(Quota.objects.get(tenant_id=tenant_id), memory_mb, cpu_millis, instances)


def _claim_beyond(
    *, tenant_id: int, memory_mb: int, cpu_millis: int, instances: int
) -> tuple[QuerySet[Quota], dict[str, Any]]:
    return Quota.objects.filter(tenant_id=tenant_id), {
        "memory_mb_used": F("memory_mb_used") + memory_mb,
        "cpu_millis_used": F("cpu_millis_used") + cpu_millis,
        "instances_used": F("instances_used") + instances,
    }


def _claim_within(
    *, tenant_id: int, memory_mb: int, cpu_millis: int, instances: int
) -> tuple[QuerySet[Quota], dict[str, Any]]:
    rows, changes = _claim_beyond(tenant_id=tenant_id, memory_mb=memory_mb, cpu_millis=cpu_millis, instances=instances)
    return rows.filter(Quota.room_for(memory_mb, cpu_millis, instances)), changes


def _exceeded(quota: Quota, memory_mb: int, cpu_millis: int, instances: int) -> QuotaExceeded:
    left = {
        "memory_mb": max(0, quota.memory_mb - quota.memory_mb_used),
        "cpu_millis": max(0, quota.cpu_millis - quota.cpu_millis_used),
        "instances": max(0, quota.instances - quota.instances_used),
    }
    asked = {"memory_mb": memory_mb, "cpu_millis": cpu_millis, "instances": instances}
    short = ", ".join(f"{key} {asked[key]} asked, {left[key]} left" for key in asked if asked[key] > left[key])
    return QuotaExceeded(
        f"The tenant's quota has no room for this: {short}. Stop something or ask an admin for more.",
        asked=asked,
        left=left,
    )


def quota_release(*, tenant_id: int, memory_mb: int, cpu_millis: int, instances: int) -> None:
    """Give back to the tenant's quota, within the caller's transaction."""
    Quota.objects.filter(tenant_id=tenant_id).update(
        memory_mb_used=F("memory_mb_used") - memory_mb,
        cpu_millis_used=F("cpu_millis_used") - cpu_millis,
        instances_used=F("instances_used") - instances,
    )
