"""Forms: what people type, turned into arguments of services. What is allowed is decided by the services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from apps.core.clock import now
from apps.core.errors import BerthError
from apps.deployments.models import Release
from apps.deployments.services.releases import ReleaseSettings
from apps.tenants.models import ApiToken, Tenant
from apps.tenants.models.tenants import SLUG
from portal.web.envtext import EnvTextInvalid, parse_env
from portal.web.texts import CODES, SCOPES, explain


class Styled(forms.BaseForm):
    """Gives widgets the framework's classes, and shows services' errors where they belong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for bound in self.fields.values():
            widget = bound.widget
            name = "form-control"
            if isinstance(widget, forms.CheckboxSelectMultiple | forms.CheckboxInput):
                name = "form-check-input"
            elif isinstance(widget, forms.Select):
                name = "form-select"
            widget.attrs["class"] = f"{widget.attrs.get('class', '')} {name}".strip()

    def add_refusal(self, error: BerthError, fields: Mapping[str, str]) -> None:
        """``fields`` maps an error's code, or the field that it names, to a field of the form."""
        named = str(error.extra.get("field", ""))
        field = fields.get(named) or fields.get(error.code)
        self.add_error(field, ValidationError(explain(error), code=error.code))


class LoginForm(Styled, AuthenticationForm):
    error_messages = {
        "invalid_login": _("The user name and the password don't go together. Capitals count in both."),
        "inactive": _("This account is switched off. Ask the platform's operators."),
    }


class TenantChoice(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Tenant) -> str:
        return f"{obj.name} ({obj.slug})"


class AppForm(Styled, forms.Form):
    tenant = TenantChoice(Tenant.objects.none(), label=_("Tenant"), to_field_name="slug", empty_label=None)
    slug = forms.CharField(
        label=_("App name"),
        help_text=_("2 to 40 characters: small letters, digits and single hyphens, beginning with a letter."),
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "none",
                "spellcheck": "false",
                "maxlength": "40",
                "pattern": SLUG.strip("^$"),
                "placeholder": "my-app",
            }
        ),
    )

    def __init__(self, *args: Any, tenants: Sequence[Tenant], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["tenant"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101
        field.queryset = Tenant.objects.filter(pk__in=[tenant.pk for tenant in tenants])


class SizeForm(Styled, forms.Form):
    """How many and how large: what a deploy and its dry run both ask for."""

    instances = forms.IntegerField(label=_("Instances"), required=False, min_value=1, max_value=500)
    memory_mb = forms.IntegerField(label=_("Memory (MiB)"), required=False, min_value=16)
    cpu = forms.DecimalField(
        label=_("CPU (cores)"),
        required=False,
        min_value=Decimal("0.01"),
        max_value=256,
        decimal_places=3,
        widget=forms.NumberInput(attrs={"step": "0.01"}),
    )


class DeployForm(SizeForm):
    """Empty fields keep what the app's last release has; only the health path means something when empty."""

    #: Fields that services name in their errors, or codes that belong to one field -> field here.
    REFUSALS = {
        "versions.not_found": "version",
        "instances": "instances",
        "memory_mb": "memory_mb",
        "cpu_millis": "cpu",
        "container_port": "container_port",
        "health_path": "health_path",
        "env": "env",
    }

    field_order = ("version",)

    version = forms.CharField(label=_("Version"), max_length=128, widget=forms.Select)
    container_port = forms.IntegerField(
        label=_("Container port"),
        required=False,
        min_value=1,
        max_value=65535,
        help_text=_("Listen on it: it is set as PORT."),
    )
    health_path = forms.CharField(
        label=_("Health path"),
        required=False,
        max_length=200,
        help_text=_("Must answer 200 to 399. Empty: that the port can be connected to is enough."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false", "placeholder": "/_ping"}),
    )
    env = forms.CharField(
        label=_("Environment variables"),
        required=False,
        strip=False,
        max_length=100_000,
        widget=forms.Textarea(
            attrs={"rows": 5, "spellcheck": "false", "autocapitalize": "none", "autocomplete": "off", "class": "mono"}
        ),
    )
    env_clear = forms.BooleanField(label=_("Remove all variables"), required=False)

    def __init__(self, *args: Any, versions: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.versions = list(versions)
        choices = list(self.versions)
        asked = self.data.get("version") if self.is_bound else None
        if asked and asked not in choices:
            choices.append(asked)
        widget = self.fields["version"].widget
        assert isinstance(widget, forms.Select)  # noqa: S101
        widget.choices = [(tag, tag) for tag in choices]

    @staticmethod
    def initial_of(release: Release | None, instances: int | None) -> dict[str, Any]:
        """What the fields show before anything is typed: what the last release has, or what a first one gets."""
        release = release or Release(health_path="/_ping")
        return {
            "instances": instances or 1,
            "memory_mb": release.memory_mb,
            "cpu": f"{release.cpu_millis / 1000:g}",
            "container_port": release.container_port,
            "health_path": release.health_path,
        }

    def clean_env(self) -> dict[str, str] | None:
        text = self.cleaned_data["env"]
        if not text.strip():
            return None
        try:
            return parse_env(text)
        except EnvTextInvalid as error:
            raise ValidationError(str(error), code="releases.invalid") from error

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if data.get("env") and data.get("env_clear"):
            self.add_error("env_clear", _("Either give variables or remove them all."))
        return data

    def settings(self) -> ReleaseSettings:
        """Of a valid form."""
        data = self.cleaned_data
        cpu = data["cpu"]
        return ReleaseSettings(
            env={} if data["env_clear"] else data["env"],
            container_port=data["container_port"],
            memory_mb=data["memory_mb"],
            cpu_millis=None if cpu is None else int(cpu * 1000),
            # Sent and empty means a TCP check; not sent at all keeps the last.
            health_path=data["health_path"] if "health_path" in self.data else None,
        )


class ConfirmForm(Styled, forms.Form):
    """The name of what is to be deleted, typed."""

    confirm = forms.CharField(
        label=_("Its name"),
        required=False,
        strip=True,
        max_length=200,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )

    def add_confirm_refusal(self, error: BerthError) -> None:
        """What would go stands on the page already: here only that it was not confirmed."""
        if error.extra.get("field") == "confirm":
            self.add_error("confirm", ValidationError(str(CODES[error.code]), code=error.code))
        else:
            self.add_refusal(error, {"tenants.has_apps": "with_apps"})


class TenantDeleteForm(ConfirmForm):
    with_apps = forms.BooleanField(label=_("Delete all its apps too"), required=False)


class TokenForm(Styled, forms.Form):
    EXPIRIES = (("30", _("in 30 days")), ("90", _("in 90 days")), ("365", _("in a year")), ("", _("never")))

    name = forms.CharField(
        label=_("Name"),
        max_length=80,
        help_text=_("Where you will use it, so that you know later which one to revoke."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": _("laptop")}),
    )
    scopes = forms.MultipleChoiceField(
        label=_("Good for"),
        choices=list(SCOPES.items()),
        initial=list(ApiToken.Scope.values),
        widget=forms.CheckboxSelectMultiple,
    )
    expires = forms.ChoiceField(label=_("Expires"), choices=EXPIRIES, required=False, initial="90")

    def expires_at(self) -> datetime | None:
        days = self.cleaned_data["expires"]
        return now() + timedelta(days=int(days)) if days else None
