"""Failure capsules, written and forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from apps.core.clock import now
from apps.deployments.models import FailureCapsule, Instance

#: So many of an app are kept, the newest: a crash loop must not fill the database.
KEPT_OF_APP = 20


@transaction.atomic
def capsule_keep(*, instance: Instance, log_missing: str | None, **found: Any) -> FailureCapsule:
    """Write the instance's capsule, over an earlier one of the same instance; drop what is too many of its app's.

    ``found`` are the other fields of the model; code and reason are the instance's own.
    """
    capsule, _ = FailureCapsule.objects.update_or_create(
        instance=instance,
        defaults={
            **found,
            "created_at": now(),
            "code": instance.code,
            "reason": instance.reason,
            "log_missing": log_missing or "",
        },
    )
    of_app = FailureCapsule.objects.filter(instance__app_id=instance.app_id).order_by("-created_at", "-pk")
    too_many = list(of_app.values_list("pk", flat=True)[KEPT_OF_APP:])
    if too_many:
        FailureCapsule.objects.filter(pk__in=too_many).delete()
    return capsule


def capsules_expire() -> int:
    """Remove what is older than CAPSULE_DAYS of instances that are over. Returns how many."""
    old = now() - timedelta(days=settings.CAPSULE_DAYS)
    removed, _ = FailureCapsule.objects.filter(created_at__lt=old, instance__released=True).delete()
    return removed
