"""What is typed about certificates."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from apps.deployments.pem import MOST_TEXT
from portal.web.forms import Styled

_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}


class SendForm(Styled, forms.Form):
    chain = forms.CharField(
        label=_("Certificate, with its chain"),
        max_length=MOST_TEXT,
        help_text=_("PEM: the certificate first, then those that it is signed by."),
        widget=forms.Textarea(attrs={**_PLAIN, "rows": 6, "placeholder": "-----BEGIN CERTIFICATE-----"}),
    )
    key = forms.CharField(
        label=_("Private key"),
        max_length=MOST_TEXT,
        help_text=_("PEM, without a password. It is kept encrypted, and nobody can read it again."),
        widget=forms.Textarea(attrs={**_PLAIN, "rows": 4}),
    )


class OrderForm(Styled, forms.Form):
    name = forms.CharField(
        label=_("Domain"),
        max_length=253,
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "shop.example.com", "list": "domains"}),
    )
