"""Forms of the traffic rules' page."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from apps.deployments.models import App, GatewayPolicy
from apps.deployments.services.policies import FIELDS, LISTS, MOST, MOST_PASSWORD
from portal.web.forms import PROTOCOLS, Styled

_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
#: 500 networks of the longest kind.
_LONGEST_LIST = 30_000


def _number(label: Any, name: str, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(label=label, help_text=help_text, min_value=0, max_value=MOST[name])


def _networks(label: Any, help_text: Any) -> forms.CharField:
    widget = forms.Textarea(attrs={**_PLAIN, "rows": "4", "placeholder": "10.1.0.0/16\n2001:db8::/32"})
    return forms.CharField(label=label, help_text=help_text, required=False, max_length=_LONGEST_LIST, widget=widget)


class RulesForm(Styled, forms.Form):
    """``manages``: whether the viewer may say who comes in. An app of TCP has only the lists."""

    https_only = forms.BooleanField(label=_("Send visitors to https"), required=False)
    canary_for_testers = forms.BooleanField(label=_("Testers may ask for the canary"), required=False)
    hsts_seconds = _number(
        _("Only https, for so long (s)"),
        "hsts_seconds",
        _("Browsers remember it (HSTS) and it can't be called back. 0: off."),
    )
    hold_s = _number(
        _("Wait for an instance (s)"),
        "hold_s",
        _("So long a request waits while none is ready. 0: it is told at once."),
    )
    app_rate = _number(_("Requests a second, in all"), "app_rate", _("For each gateway. 0: no limit."))
    client_rate = _number(_("Requests a second, of one address"), "client_rate", _("For each gateway. 0: no limit."))
    max_body_bytes = _number(
        _("Largest body (bytes)"), "max_body_bytes", _("Clients must then say how large it is. 0: no limit.")
    )
    max_header_bytes = _number(_("Largest headers (bytes)"), "max_header_bytes", _("1024 or more. 0: no limit."))
    answer_timeout_s = _number(
        _("Wait for an answer (s)"), "answer_timeout_s", _("So long an instance may take. 0: 120 s.")
    )
    allow = _networks(_("Let in only"), _("Networks or addresses, one a line. Empty: everybody."))
    deny = _networks(_("Keep out"), _("Networks or addresses, one a line."))

    def __init__(self, *args: Any, app: App, manages: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if app.protocol == App.Protocol.TCP:
            for name in set(self.fields) - set(LISTS):
                del self.fields[name]
        for name in LISTS:
            self.fields[name].disabled = not manages

    @staticmethod
    def initial_of(row: GatewayPolicy) -> dict[str, Any]:
        found = {name: getattr(row, name) for name in FIELDS}
        return {**found, **{name: "\n".join(found[name]) for name in LISTS}}

    def changes(self) -> dict[str, Any]:
        """Of a valid form."""
        data = dict(self.cleaned_data)
        return {**data, **{name: data[name].replace(",", " ").split() for name in LISTS}}


class PersonForm(Styled, forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64, widget=forms.TextInput(attrs=_PLAIN))
    password = forms.CharField(
        label=_("Password"),
        max_length=MOST_PASSWORD,
        strip=False,
        help_text=_("8 characters or more. Nobody can read it again."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class ProtocolForm(Styled, forms.Form):
    protocol = forms.ChoiceField(label=_("What it speaks"), choices=PROTOCOLS)
