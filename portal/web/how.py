"""How a rollout goes about it, as fields of a form. Which values make sense is decided by services.strategies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.datastructures import MultiValueDict
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from apps.deployments.models import Rollout
from apps.deployments.services.strategies import CANARY, JUDGE_S, KEEP_S, MAX_STEPS, SURGE, Options

Strategy = Rollout.Strategy

STRATEGIES: Final[dict[str, str | Promise]] = {
    Strategy.ROLLING: _("Rolling"),
    Strategy.BLUE_GREEN: _("Blue-green"),
    Strategy.CANARY: _("Canary"),
    Strategy.IN_PLACE: _("In place"),
}
#: What it does, and what it costs.
MEANINGS: Final[dict[str, str | Promise]] = {
    Strategy.ROLLING: _("A few at a time: new ones get ready, then as many old ones go. Needs room for those few."),
    Strategy.BLUE_GREEN: _(
        "All new ones get ready, then the whole traffic moves at once. The old ones are kept for a while, so that "
        "switching back takes a moment. Needs room for twice as many."
    ),
    Strategy.CANARY: _(
        "A small share of the traffic first, then more, step by step. Takes the longest; few people meet a bad version."
    ),
    Strategy.IN_PLACE: _(
        "Each instance is rebuilt where it is, with its host and port. Needs no room, but meanwhile there is one less."
    ),
}
#: Which fields mean something for which strategy, beside ``judge_s`` and ``supersede``. The others are not looked at.
BELONGS: Final[dict[str, tuple[str, ...]]] = {
    Strategy.ROLLING: ("max_surge", "max_unavailable"),
    Strategy.BLUE_GREEN: ("keep_s",),
    Strategy.CANARY: ("steps",),
    Strategy.IN_PLACE: ("max_unavailable",),
}
_COUNT = re.compile(r"[0-9]{1,3}")
_SHARE = re.compile(r"([0-9]{1,3})\s*[%％]")
_SECONDS = re.compile(r"[0-9]{1,6}")
#: Rows for steps that nobody has filled in, beside those that somebody has.
_SPARE_ROWS = 2

Row = tuple[str, str]


class CountOrShareField(forms.CharField):
    """A number of instances, or a share of them such as 25%."""

    def to_python(self, value: Any) -> Any:
        text = str(value or "").strip()
        if not text:
            return None
        if _COUNT.fullmatch(text):
            return int(text)
        if matched := _SHARE.fullmatch(text):
            return f"{int(matched[1])}%"
        raise ValidationError(_("Give a number of instances, or a share such as 25%."), code="rollouts.invalid")

    def validate(self, value: Any) -> None:
        """All that is to be said was said by to_python."""

    def run_validators(self, value: Any) -> None:
        """Those of texts mean nothing to a number."""


class StepsWidget(forms.Widget):
    """A row for each step: its weight, and how long it rests there."""

    template_name = "web/parts/steps_widget.html"

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> list[Row] | None:
        if f"{name}_weight" not in data:
            return None
        lists = data if isinstance(data, MultiValueDict) else MultiValueDict({k: [v] for k, v in data.items()})
        weights, pauses = lists.getlist(f"{name}_weight"), lists.getlist(f"{name}_pause")
        pauses += [""] * (len(weights) - len(pauses))
        return list(zip(weights, pauses, strict=False))[: MAX_STEPS + 1]

    def value_omitted_from_data(self, data: Mapping[str, Any], files: Any, name: str) -> bool:
        return f"{name}_weight" not in data

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context = super().get_context(name, None, attrs)
        rows = [row for row in value or () if any(row)]
        context["widget"]["rows"] = rows + [("", "")] * min(_SPARE_ROWS, MAX_STEPS - len(rows))
        return context


class StepsField(forms.Field):
    widget = StepsWidget

    def clean(self, value: Sequence[Row] | None) -> list[dict[str, int | None]] | None:
        """None where it was not sent: the default; otherwise the rows that have a weight."""
        if value is None:
            return None
        steps: list[dict[str, int | None]] = []
        for number, (weight, pause) in enumerate(((w.strip().rstrip("%％").strip(), p.strip()) for w, p in value), 1):
            if not weight and not pause:
                continue
            if not _COUNT.fullmatch(weight):
                raise ValidationError(
                    gettext("Step %(number)d: the share is a whole number from 1 to 99.") % {"number": number},
                    code="rollouts.invalid",
                )
            if pause not in ("", "-") and not _SECONDS.fullmatch(pause):
                raise ValidationError(
                    gettext("Step %(number)d: the wait is a number of seconds, or empty.") % {"number": number},
                    code="rollouts.invalid",
                )
            steps.append({"weight": int(weight), "pause_s": int(pause) if pause not in ("", "-") else None})
        return steps


def _number(**attrs: str) -> forms.TextInput:
    """Without bounds in the browser: it would hold up a form for a field that another strategy hides."""
    return forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", **attrs})


class HowFields(forms.Form):
    """Mixed into a form that starts a rollout. What is empty or not sent is the strategy's default."""

    HOW = ("strategy", "max_surge", "max_unavailable", "keep_s", "steps", "judge_s", "supersede")
    HOW_REFUSALS: Final[dict[str, str]] = {name: name for name in HOW}

    strategy = forms.ChoiceField(
        label=_("Strategy"),
        required=False,
        choices=list(STRATEGIES.items()),
        initial=Strategy.ROLLING,
        widget=forms.RadioSelect,
    )
    max_surge = CountOrShareField(
        label=_("At most so many more"),
        required=False,
        initial=SURGE,
        help_text=_("New ones that run beside the old ones: a number, or a share such as 25%."),
        widget=_number(),
    )
    max_unavailable = CountOrShareField(
        label=_("At most so many fewer"),
        required=False,
        initial="0",
        help_text=_("Old ones that may go before new ones are ready. In place it is at least one."),
        widget=_number(),
    )
    keep_s = forms.IntegerField(
        label=_("Keep the old version (seconds)"),
        required=False,
        min_value=0,
        initial=KEEP_S,
        help_text=_("So long you can switch back at once. Both versions count against the quota meanwhile."),
        widget=_number(),
    )
    steps = StepsField(
        label=_("Steps"),
        required=False,
        initial=[(str(one["weight"]), str(one["pause_s"])) for one in CANARY],
        help_text=_("Each share is more than the one before; after the last step it gets everything."),
    )
    judge_s = forms.IntegerField(
        label=_("Compare the two versions for (seconds)"),
        required=False,
        min_value=0,
        initial=JUDGE_S,
        help_text=_(
            "If the new one answers with more errors or more slowly, it is rolled back by itself. 0: don't compare."
        ),
        widget=_number(),
    )
    supersede = forms.BooleanField(
        label=_("Give up what is under way or waits, for this one"),
        required=False,
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if "strategy" not in self.errors:
            belongs = BELONGS[data.get("strategy") or Strategy.ROLLING]
            for name in ("max_surge", "max_unavailable", "keep_s", "steps"):
                if name not in belongs and name in self.errors:
                    del self.errors[name]
        return data

    def options(self) -> Options:
        """Of a valid form: what belongs to the chosen strategy."""
        data = self.cleaned_data
        strategy = data["strategy"] or Strategy.ROLLING
        given = {name: data.get(name) for name in (*BELONGS[strategy], "judge_s")}
        return Options(strategy=strategy, supersede=data["supersede"], **given)

    @property
    def strategies(self) -> list[dict[str, Any]]:
        """For the page: each choice with what it means."""
        return [
            {"tag": option.tag(), "id": option.id_for_label, "name": option.choice_label, "meaning": MEANINGS[value]}
            for option, value in zip(self["strategy"].subwidgets, STRATEGIES, strict=True)
        ]

    @property
    def strategy_name(self) -> str:
        return str(STRATEGIES.get(str(self["strategy"].value() or Strategy.ROLLING), ""))

    @property
    def how_wrong(self) -> bool:
        return any(name in self.errors for name in self.HOW)
