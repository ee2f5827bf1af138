"""Environment variables as fields of a form: settings, whose values can be read, and secrets, whose values cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from apps.deployments.models import Release
from portal.web.envtext import EnvTextInvalid, parse_env


@dataclass(frozen=True, slots=True)
class Variable:
    """One that is kept unless something is said of it. ``value`` is None for a secret."""

    name: str
    value: str | None


def variables_of(release: Release | None) -> list[Variable]:
    """Names of all; values of settings only."""
    if release is None:
        return []
    shown = set(release.env_readable)
    return [Variable(name, value if name in shown else None) for name, value in sorted(release.env.items())]


class NamesField(forms.MultipleChoiceField):
    """Names of variables. One that is gone meanwhile is as it should be."""

    def valid_value(self, value: str) -> bool:
        return True


def _text() -> forms.Textarea:
    return forms.Textarea(
        attrs={"rows": 4, "spellcheck": "false", "autocapitalize": "none", "autocomplete": "off", "class": "mono"}
    )


class VariableFields(forms.Form):
    """Mixed into the deploy form. What is not named stays as it is."""

    env_settings = forms.CharField(
        label=_("Settings to add or change"),
        required=False,
        strip=False,
        max_length=100_000,
        help_text=_("Members of the tenant can read their values."),
        widget=_text(),
    )
    env_secrets = forms.CharField(
        label=_("Secrets to add or change"),
        required=False,
        strip=False,
        max_length=100_000,
        help_text=_("Nobody can read their values again, neither here nor over the API."),
        widget=_text(),
    )
    env_remove = NamesField(label=_("Remove"), required=False)
    env_clear = forms.BooleanField(label=_("Remove all variables"), required=False)

    def clean_env_settings(self) -> dict[str, str]:
        return _parsed(self.cleaned_data["env_settings"])

    def clean_env_secrets(self) -> dict[str, str]:
        return _parsed(self.cleaned_data["env_secrets"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        settings, secrets = data.get("env_settings") or {}, data.get("env_secrets") or {}
        if both := settings.keys() & secrets.keys():
            words = gettext("%(name)s stands among the settings and among the secrets.") % {"name": min(both)}
            self.add_error("env_secrets", ValidationError(words, code="releases.invalid"))
        if both := (settings.keys() | secrets.keys()) & set(data.get("env_remove") or ()):
            words = gettext("%(name)s is to be changed and to be removed.") % {"name": min(both)}
            self.add_error("env_remove", ValidationError(words, code="releases.invalid"))
        return data

    def variables(self) -> dict[str, Any]:
        """Of a valid form, as ReleaseSettings takes them."""
        data = self.cleaned_data
        secrets: dict[str, str | None] = dict(data["env_secrets"])
        if not data["env_clear"]:
            # To take one away it does not matter of which kind it is.
            secrets |= dict.fromkeys(data["env_remove"])
        return {"env": {} if data["env_clear"] else None, "settings": data["env_settings"], "secrets": secrets}

    @property
    def env_refused(self) -> str:
        """The field at which a refusal of the variables stands; it names the one that it means."""
        return "env_settings" if self.cleaned_data.get("env_settings") else "env_secrets"

    @property
    def env_typed(self) -> bool:
        names = ("env_settings", "env_secrets", "env_remove", "env_clear")
        return self.is_bound and any(name in self.errors or self[name].value() for name in names)


def _parsed(text: str) -> dict[str, str]:
    try:
        return parse_env(text)
    except EnvTextInvalid as error:
        raise ValidationError(str(error), code="releases.invalid") from error
