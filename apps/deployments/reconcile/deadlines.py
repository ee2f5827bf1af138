"""Whether a deadline has passed: only for a platform that was there to keep it."""

from __future__ import annotations

from apps.core.clock import now
from apps.core.duties import away
from apps.deployments.models import Instance, Rollout


def passed(row: Instance | Rollout) -> bool:
    """Whether the row's deadline has passed. Never while the platform was away and has not made up for that."""
    if not _over(row) or away():
        return False
    # What was read before the time was made up for is out of date by now.
    row.refresh_from_db(fields=["deadline_at"])
    return _over(row)


def _over(row: Instance | Rollout) -> bool:
    return row.deadline_at is not None and now() >= row.deadline_at
