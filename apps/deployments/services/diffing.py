"""What differs between two releases: for the release list, and for looking at a rollback before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.deployments.models import Release
from apps.deployments.services.releases import CONTENT

#: Compared as they stand; version and variables have words of their own, and ``is_global`` is one of the rules.
_FIELDS = tuple(name for name in CONTENT if name not in ("version_id", "env", "env_readable", "is_global"))


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is another in the second release. None: it is not there.

    Of a variable whose value nobody may read ``secret`` is set, and the values are left out.
    """

    field: str
    before: Any
    after: Any
    secret: bool = False


def release_diff(*, old: Release, new: Release) -> list[Change]:
    """From ``old`` to ``new``; empty where they would run the same. Never holds a secret's value."""
    changes = []
    if old.version_id != new.version_id:
        changes.append(Change("version", old.version.tag, new.version.tag))
        if old.version.digest != new.version.digest:
            changes.append(Change("digest", old.version.digest, new.version.digest))
    for name in sorted(old.env.keys() | new.env.keys()):
        one = _variable(name, old, new)
        if one is not None:
            changes.append(one)
    for name in _FIELDS:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            changes.append(Change(name, before, after))
    return changes


def _variable(name: str, old: Release, new: Release) -> Change | None:
    before, after = old.env.get(name), new.env.get(name)
    shown_before, shown_after = name in old.env_readable, name in new.env_readable
    if before == after and (before is None or shown_before == shown_after):
        return None
    # One that was a secret stays one in a comparison, on either side: a setting of the same value would tell it.
    secret = (before is not None and not shown_before) or (after is not None and not shown_after)
    hidden = "(secret)" if secret else None
    return Change(
        f"env.{name}",
        None if before is None else hidden or before,
        None if after is None else hidden or after,
        secret,
    )
