"""The clean-up page's form, and a tenant's storage as a bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from apps.deployments.keeping import Rules
from apps.deployments.services.retention import BOUNDS
from apps.tenants.models import Quota
from portal.web.forms import Styled

MIB = 1024 * 1024
#: Of a storage that is nearly used up, in per cent.
NEARLY = 90


def _number(label: Any, name: str, help_text: Any = "") -> forms.IntegerField:
    low, high = BOUNDS[name]
    return forms.IntegerField(label=label, help_text=help_text, min_value=low, max_value=high)


class CleanupForm(Styled, forms.Form):
    is_on = forms.BooleanField(label=_("Delete versions that no rule keeps, once a day"), required=False)
    keep_last = _number(_("Keep the newest"), "keep_last")
    keep_days = _number(_("Keep what is younger than (days)"), "keep_days", _("0: age does not matter."))
    keep_tags = forms.CharField(
        label=_("Keep tags like"),
        help_text=_("Patterns with * and ?, one beside the other: v*.0 stable-*"),
        required=False,
        max_length=1000,
        widget=forms.TextInput(attrs={"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}),
    )
    rollback_releases = _number(
        _("Releases to go back to"), "rollback_releases", _("The images of so many of the newest releases stay.")
    )

    @staticmethod
    def initial_of(rules: Rules) -> dict[str, Any]:
        return {
            "is_on": rules.is_on,
            "keep_last": rules.keep_last,
            "keep_days": rules.keep_days,
            "keep_tags": " ".join(rules.keep_tags),
            "rollback_releases": rules.rollback_releases,
        }


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes."""

    used: int
    limit: int

    @classmethod
    def of(cls, quota: Quota) -> Storage:
        return cls(quota.storage_bytes_used, quota.storage_mb * MIB)

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def over(self) -> bool:
        return self.used >= self.limit

    @property
    def percent(self) -> int:
        return min(100, self.used * 100 // self.limit) if self.limit else 100

    @property
    def nearly(self) -> bool:
        return self.percent >= NEARLY
