"""The form by which a robot is made."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from apps.core.clock import now
from apps.registry.models import Robot
from portal.web.forms import Styled, TokenForm
from portal.web.texts import ROBOT_ACTIONS


class RobotForm(Styled, forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=40,
        help_text=_("Small letters, digits and single hyphens; what it is for, such as ci or backup."),
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false", "placeholder": "ci"}
        ),
    )
    app = forms.ChoiceField(label=_("App"), required=False)
    actions = forms.MultipleChoiceField(
        label=_("May"),
        choices=list(ROBOT_ACTIONS.items()),
        initial=[Robot.Action.PULL],
        widget=forms.CheckboxSelectMultiple,
    )
    expires = forms.ChoiceField(label=_("Expires"), choices=TokenForm.EXPIRIES, required=False, initial="90")

    def __init__(self, *args: Any, apps: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["app"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101
        field.choices = [("", _("all of the tenant's")), *((slug, slug) for slug in apps)]

    def expires_at(self) -> datetime | None:
        days = self.cleaned_data["expires"]
        return now() + timedelta(days=int(days)) if days else None
