"""What differs between two releases, in words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from apps.deployments.services.diffing import Change
from portal.web.rollout_words import Text

FIELDS: Final[dict[str, Text]] = {
    "version": gettext_lazy("Version"),
    "digest": gettext_lazy("Digest"),
    "command": gettext_lazy("Command"),
    "container_port": gettext_lazy("Container port"),
    "memory_mb": gettext_lazy("Memory (MiB)"),
    "cpu_millis": gettext_lazy("CPU (cores)"),
    "health_path": gettext_lazy("Health path"),
    "readiness": gettext_lazy("Readiness check"),
    "liveness": gettext_lazy("Liveness check"),
    "on_failure": gettext_lazy("On failure"),
    "stop_signal": gettext_lazy("Stop signal"),
    "stop_grace_s": gettext_lazy("Grace before a kill (s)"),
    "placement": gettext_lazy("Rules for hosts"),
}
#: A short account of more than these would not be short.
BRIEF = 3
#: So much of a digest tells it from others.
DIGEST = len("sha256:") + 12


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """None: it is not there."""

    name: str
    variable: bool
    before: str | None
    after: str | None


def rows_of(changes: Sequence[Change]) -> list[ChangeRow]:
    return [_row(one) for one in changes]


def brief(changes: Sequence[Change]) -> list[str]:
    """A few words for each change that matters most; variables are counted, the digest goes without saying."""
    told = [
        f"{FIELDS.get(one.field, one.field)} {_shown(one, one.before) or '—'} → {_shown(one, one.after) or '—'}"
        for one in changes
        if not one.field.startswith("env.") and one.field != "digest"
    ]
    variables = sum(one.field.startswith("env.") for one in changes)
    if variables:
        told.append(ngettext("%(n)d variable", "%(n)d variables", variables) % {"n": variables})
    if len(told) > BRIEF:
        more = len(told) - BRIEF + 1
        told[BRIEF - 1 :] = [ngettext("and %(n)d more", "and %(n)d more", more) % {"n": more}]
    return told


def _row(change: Change) -> ChangeRow:
    variable = change.field.startswith("env.")
    name = change.field.removeprefix("env.") if variable else str(FIELDS.get(change.field, change.field))
    return ChangeRow(name, variable, _shown(change, change.before), _shown(change, change.after))


def _shown(change: Change, value: Any) -> str | None:
    if value is None:
        return None
    if change.secret:
        return _("(secret)")
    if value in ("", [], {}):
        return _("(empty)")
    if change.field == "digest":
        return f"{value[:DIGEST]}…"
    if change.field == "cpu_millis":
        return f"{value / 1000:g}"
    if change.field == "command":
        return shlex.join(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value)
