"""Forms: what people type, turned into arguments of services. What is allowed is decided by the services."""

from __future__ import annotations

import shlex
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
from apps.deployments import checks
from apps.deployments.checks import Kind, readiness_of
from apps.deployments.models import App, Release
from apps.deployments.services.releases import STOP_SIGNALS, ReleaseSettings
from apps.deployments.services.scaling import MOST
from apps.tenants.models import ApiToken, Tenant
from apps.tenants.models.tenants import SLUG
from portal.web.how import HowFields
from portal.web.texts import CODES, SCOPES, explain
from portal.web.variables import VariableFields


class Styled(forms.BaseForm):
    """Gives widgets the framework's classes, and shows services' errors where they belong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dress()

    def dress(self) -> None:
        for bound in self.fields.values():
            widget = bound.widget
            name = "form-control"
            if isinstance(widget, forms.RadioSelect | forms.CheckboxInput):
                name = "form-check-input"
            elif isinstance(widget, forms.Select):
                name = "form-select"
            if name not in widget.attrs.get("class", "").split():
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


PROTOCOLS = [
    (App.Protocol.HTTP.value, _("HTTP: websites, APIs, websockets")),
    (App.Protocol.H2.value, _("HTTP/2 without TLS: gRPC")),
    (App.Protocol.TCP.value, _("TCP: databases, brokers, TLS of its own")),
]


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
    protocol = forms.ChoiceField(
        label=_("What it speaks"), choices=PROTOCOLS, required=False, initial=App.Protocol.HTTP.value
    )

    def __init__(self, *args: Any, tenants: Sequence[Tenant], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["tenant"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101
        field.queryset = Tenant.objects.filter(pk__in=[tenant.pk for tenant in tenants])


#: Of what is typed for machines.
_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}


def _seconds(label: Any, name: str, default: int | None) -> forms.IntegerField:
    """A number of a health check, within the bounds that services have for it."""
    low, high = checks.BOUNDS[name]
    attrs = {} if default is None else {"placeholder": str(default)}
    widget = forms.NumberInput(attrs=attrs)
    return forms.IntegerField(label=label, required=False, min_value=low, max_value=high, widget=widget)


def _shown(check: checks.Check) -> dict[str, Any]:
    low, high = check.statuses
    return {
        "health_kind": Kind.COMMAND.value if check.kind is Kind.COMMAND else "network",
        "health_command": shlex.join(check.command),
        "health_statuses": f"{low}-{high}",
        "health_text": check.text,
        "health_interval": check.interval_s,
        "health_timeout": check.timeout_s,
        "health_start_period": check.start_period_s or None,
        "health_failures": check.failures or None,
    }


class SizeForm(Styled, forms.Form):
    """How many and how large: what a deploy and its dry run both ask for."""

    instances = forms.IntegerField(label=_("Instances"), required=False, min_value=1, max_value=MOST)
    memory_mb = forms.IntegerField(label=_("Memory (MiB)"), required=False, min_value=16)
    cpu = forms.DecimalField(
        label=_("CPU (cores)"),
        required=False,
        min_value=Decimal("0.01"),
        max_value=256,
        decimal_places=3,
        widget=forms.NumberInput(attrs={"step": "0.01"}),
    )


class DeployForm(VariableFields, HowFields, SizeForm):
    """Empty fields keep what the app's release has; only the health path means something when empty."""

    #: Fields that services name in their errors, or codes that belong to one field -> field here.
    REFUSALS = {
        "versions.not_found": "version",
        "instances": "instances",
        "memory_mb": "memory_mb",
        "cpu_millis": "cpu",
        "container_port": "container_port",
        "health_path": "health_path",
        "readiness": "health_kind",
        "readiness.path": "health_path",
        "readiness.statuses": "health_statuses",
        "readiness.text": "health_text",
        "readiness.command": "health_command",
        "readiness.interval_s": "health_interval",
        "readiness.timeout_s": "health_timeout",
        "readiness.start_period_s": "health_start_period",
        "readiness.failures": "health_failures",
        "on_failure": "on_failure",
        "stop_signal": "stop_signal",
        "settings": "env_settings",
        **HowFields.HOW_REFUSALS,
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
        help_text=_("Must answer 200 to 399, unless you say otherwise below. Empty: a connect is enough."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false", "placeholder": "/_ping"}),
    )
    health_kind = forms.ChoiceField(
        label=_("What is asked"),
        required=False,
        choices=[
            ("network", _("The health path, or the port if there is none")),
            (Kind.COMMAND.value, _("A command in the container")),
        ],
    )
    health_command = forms.CharField(
        label=_("Command"),
        required=False,
        max_length=checks.MAX_COMMAND,
        help_text=_("The program and its arguments, without a shell. Exit code 0 is well."),
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "/app/healthy --quick"}),
    )
    health_statuses = forms.CharField(
        label=_("Statuses that are well"),
        required=False,
        max_length=9,
        widget=forms.TextInput(attrs={"placeholder": "200-399", "inputmode": "numeric"}),
    )
    health_text = forms.CharField(
        label=_("Expected text"),
        required=False,
        max_length=checks.MAX_TEXT,
        help_text=_("Must stand in the first 64 KiB of the answer."),
        widget=forms.TextInput(attrs=_PLAIN),
    )
    health_interval = _seconds(_("Interval (s)"), "interval_s", checks.INTERVAL_S)
    health_timeout = _seconds(_("Time-out (s)"), "timeout_s", checks.TIMEOUT_S)
    health_start_period = _seconds(_("Start period (s)"), "start_period_s", None)
    health_failures = _seconds(_("Failures in a row"), "failures", None)
    on_failure = forms.ChoiceField(
        label=_("When it fails"),
        required=False,
        choices=[
            ("replace", _("replace it, perhaps on another host")),
            ("restart", _("restart it where it is")),
            ("remove", _("remove it and run one fewer")),
            ("report", _("only report it")),
        ],
    )
    stop_signal = forms.ChoiceField(
        label=_("Stop signal"), required=False, choices=[(one, one) for one in STOP_SIGNALS]
    )

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

    @property
    def health_errors(self) -> bool:
        """Whether something in the folded part was refused, which must then be seen."""
        return any(name.startswith("health_") and name != "health_path" for name in self.errors) or any(
            name in self.errors for name in ("on_failure", "stop_signal")
        )

    @staticmethod
    def initial_of(release: Release | None, instances: int | None, path: str) -> dict[str, Any]:
        """What the fields show before anything is typed: what the app's release has, or what a first one gets.

        ``path``: what that one's health path is.
        """
        release = release or Release(health_path=path)
        return {
            "instances": None if release.is_global else instances or 1,
            "memory_mb": release.memory_mb,
            "cpu": f"{release.cpu_millis / 1000:g}",
            "container_port": release.container_port,
            "health_path": release.health_path,
            **_shown(readiness_of(release)),
            "on_failure": release.on_failure,
            "stop_signal": release.stop_signal,
        }

    def clean_health_statuses(self) -> list[int] | None:
        text = self.cleaned_data["health_statuses"].strip()
        if not text:
            return None
        low, _dash, high = text.partition("-")
        if not (low.strip().isdecimal() and (high or low).strip().isdecimal()):
            raise ValidationError(
                _("Two numbers with a hyphen between them, such as 200-399."), code="releases.invalid"
            )
        return [int(low), int(high or low)]

    def clean_health_command(self) -> list[str]:
        try:
            # Only taken apart as a shell would: no shell ever sees it.
            return shlex.split(self.cleaned_data["health_command"])
        except ValueError as error:
            raise ValidationError(_("A quotation mark has no partner."), code="releases.invalid") from error

    def refusals(self) -> dict[str, str]:
        return {**self.REFUSALS, "env": self.env_refused}

    def settings(self) -> ReleaseSettings:
        """Of a valid form."""
        data = self.cleaned_data
        cpu = data["cpu"]
        return ReleaseSettings(
            **self.variables(),
            container_port=data["container_port"],
            memory_mb=data["memory_mb"],
            cpu_millis=None if cpu is None else int(cpu * 1000),
            **self._health(),
            on_failure=data["on_failure"] or None,
            stop_signal=data["stop_signal"] or None,
        )

    def _health(self) -> dict[str, Any]:
        """The readiness check where the form was sent with its kind; else only its path. Not sent keeps the last."""
        data, kind = self.cleaned_data, self.cleaned_data["health_kind"]
        if not kind:
            # Sent and empty means a TCP check.
            return {"health_path": data["health_path"] if "health_path" in self.data else None}
        if kind != Kind.COMMAND:
            kind = (Kind.HTTP if data["health_path"] else Kind.TCP).value
        asked = {
            "interval_s": data["health_interval"],
            "timeout_s": data["health_timeout"],
            "start_period_s": data["health_start_period"],
            "failures": data["health_failures"],
        }
        if kind == Kind.HTTP:
            asked |= {key: data[f"health_{key}"] for key in ("path", "statuses", "text")}
        elif kind == Kind.COMMAND:
            asked["command"] = data["health_command"]
        return {"readiness": {"kind": kind, **{key: value for key, value in asked.items() if value}}}


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


class RollbackForm(HowFields, Styled, forms.Form):
    """How to go back to a release; what that one has is not up for change."""

    REFUSALS = {"instances": "instances", "placement.global_has_no_count": "instances", **HowFields.HOW_REFUSALS}

    instances = forms.IntegerField(label=_("Instances"), required=False, min_value=1, max_value=MOST)


class ScaleForm(Styled, forms.Form):
    REFUSALS = dict.fromkeys(
        ("instances", "quota.exceeded", "placement.no_host", "placement.contended", "rollouts.in_progress"), "scale_to"
    )

    # The deploy form on the same page has a field "instances".
    scale_to = forms.IntegerField(label=_("Instances"), min_value=0, max_value=MOST)


class PushForm(Styled, forms.Form):
    deploy_on_push = forms.CharField(
        label=_("Tags to deploy"),
        max_length=128,
        required=False,
        strip=False,
        help_text=_("Such as v* or main-*; * stands for any characters, ? for one. Empty: pushes deploy nothing."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "v*"}),
    )


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
