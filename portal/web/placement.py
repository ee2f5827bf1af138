"""The page "Where would it run?": its form, and the answer as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from apps.deployments.models import App, Release
from apps.deployments.services.explain import reasons, shown
from apps.tenants.permissions import Viewer
from portal.web.forms import SizeForm
from portal.web.texts import WEIGHERS, reason_of_host

#: Weighers that say nothing where all hosts have the same of them.
_TOLD_WHERE_THEY_DIFFER = ("untried", "own_hosts")


class PlacementForm(SizeForm):
    """What would be asked for. Rules that have no field here stay as in the last release."""

    REFUSALS = {
        "instances": "instances",
        "placement.global_has_no_count": "instances",
        "memory_mb": "memory_mb",
        "cpu_millis": "cpu",
        "placement": "constraints",
        "placement.rules_invalid": "constraints",
    }

    constraints = forms.CharField(
        label=_("Rules for hosts"),
        required=False,
        max_length=4000,
        help_text=_("One a line, on the hosts' labels: zone == eu-1, disk in (ssd, nvme), gpu exists."),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "autocapitalize": "none", "class": "mono"}),
    )
    hard = forms.BooleanField(label=_("Never two of a release on one host"), required=False)

    @staticmethod
    def initial_of(release: Release, wanted: int | None) -> dict[str, Any]:
        rules = release.placement
        return {
            # A global app's number is that of the matching hosts.
            "instances": None if rules.get("global") else wanted or 1,
            "memory_mb": release.memory_mb,
            "cpu": f"{release.cpu_millis / 1000:g}",
            "constraints": "\n".join(rules.get("constraints", ())),
            "hard": rules.get("anti_affinity") == "hard",
        }

    def asked(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Of a valid form, as ``explain`` takes it; ``kept`` are the last release's rules."""
        data = self.cleaned_data
        lines = [line.strip() for line in data["constraints"].splitlines()]
        return {
            "instances": data["instances"],
            "memory_mb": data["memory_mb"],
            "cpu_millis": None if data["cpu"] is None else int(data["cpu"] * 1000),
            "placement": {
                **kept,
                "constraints": [line for line in lines if line],
                "anti_affinity": "hard" if data["hard"] else "preferred",
            },
        }


def query_of(asked: Mapping[str, Any]) -> str:
    """The form's address that asks the same again."""
    release = Release(memory_mb=asked["memory_mb"], cpu_millis=asked["cpu_millis"], placement=dict(asked["placement"]))
    values = PlacementForm.initial_of(release, asked["instances"])
    return urlencode({key: "on" if value is True else value for key, value in values.items() if value})


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class HostRow:
    name: str
    zone: str
    instances: int
    score: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """``names``: of the listed hosts with this reason, for those who may know them."""

    reason: str
    count: int
    names: list[str]


@dataclass(frozen=True, slots=True)
class QuotaRow:
    name: str
    asked: int
    left: int
    short: bool


class Answer:
    """``plain`` is ``Explained.plain()``, or what was kept of one."""

    def __init__(self, plain: Mapping[str, Any], *, app: App, viewer: Viewer) -> None:
        told = shown(plain, app=app, viewer=viewer)
        self.asked: Mapping[str, Any] = told["asked"]
        self.cpu = f"{self.asked['cpu_millis'] / 1000:g}"
        self.fits: bool = told["fits"]
        self.placed: int = told["placed"]
        self.total: int = told["hosts_total"]
        self.fitting: int = told["hosts_fitting"]
        self.rules = _rules(self.asked["placement"])
        self.quota_fits: bool = told["quota"]["fits"]
        self.quota = [
            QuotaRow(str(words), told["quota"]["asked"][key], left, told["quota"]["asked"][key] > left)
            for key, words in (
                ("instances", _("Instances")),
                ("memory_mb", _("Memory (MiB)")),
                ("cpu_millis", _("CPU (thousandths of a core)")),
            )
            # Whoever was granted this app only hears nothing of what the tenant has left.
            if (left := told["quota"]["left"].get(key)) is not None
        ]
        fit = [one for one in told["hosts"] if not one["reason"]]
        told_of = [name for name in WEIGHERS if _tells(name, fit)]
        largest = max((score for one in fit for name, score in one["scores"].items() if name in told_of), default=0)
        self.largest = f"{largest or 1:g}"
        rows = [_host_row(one, told_of) for one in fit]
        self.chosen = [row for row in rows if row.instances]
        self.others = [row for row in rows if not row.instances]
        self.others_hidden = max(0, self.fitting - len(rows))
        self.refused = [
            ReasonRow(
                reason_of_host(reason),
                count,
                [one["name"] for one in told["hosts"] if one["name"] and one["reason"] == reason],
            )
            for reason, count in reasons(told)
        ]
        self.exhausted = [ReasonRow(reason_of_host(reason), n, []) for reason, n in told["exhausted"].items()]


def _tells(weigher: str, hosts: list[dict[str, Any]]) -> bool:
    scores = {one["scores"].get(weigher, 0.0) for one in hosts}
    return len(scores) > 1 if weigher in _TOLD_WHERE_THEY_DIFFER else scores - {0.0} != set()


def _host_row(one: Mapping[str, Any], weighers: list[str]) -> HostRow:
    scores: Mapping[str, float] = one["scores"]
    return HostRow(
        name=one["name"] or gettext("host %(number)s") % {"number": one["number"]},
        zone=one["zone"],
        instances=one["instances"],
        score=f"{sum(scores.get(name, 0.0) for name in weighers):.2f}",
        bars=[Bar(str(WEIGHERS[name]), f"{scores.get(name, 0.0):.2f}") for name in weighers],
    )


def _rules(placement: Mapping[str, Any]) -> list[str]:
    """In words, those of the asker."""
    told = list(placement.get("constraints", ()))
    if placement.get("anti_affinity") == "hard":
        told.append(gettext("Never two of a release on one host"))
    if beside := placement.get("affinity"):
        told.append(gettext("beside %(apps)s") % {"apps": ", ".join(beside)})
    if oldest := placement.get("min_engine"):
        told.append(gettext("engine %(version)s or newer") % {"version": oldest})
    if placement.get("global"):
        told.append(gettext("once on every matching host"))
    return told
