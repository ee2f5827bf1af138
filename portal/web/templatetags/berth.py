"""Template tags of the tenants' pages."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.core.exceptions import ValidationError
from django.forms import BoundField
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.keeping import Reason
from apps.deployments.models import Domain
from apps.deployments.services.versions import Use
from portal.web import how, rollout_words, texts

register = template.Library()

#: Outlines of Tabler Icons (MIT), 24 x 24.
_ICONS = {
    "alert": "M12 9v4M10.363 3.591l-8.106 13.534a1.914 1.914 0 0 0 1.636 2.871h16.214a1.914 1.914 0 0 0 1.636 -2.87l"
    "-8.106 -13.536a1.914 1.914 0 0 0 -3.274 0M12 16h.01",
    "anchor": "M12 9v12m-8 -8a8 8 0 0 0 16 0m1 0h-2m-14 0h-2M12 6m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "apps": "M12 3l8 4.5v9l-8 4.5l-8 -4.5v-9l8 -4.5M12 12l8 -4.5M12 12v9M12 12l-8 -4.5",
    "box": "M3 7l9 -4l9 4v10l-9 4l-9 -4zM3 7l9 4l9 -4M12 11v10",
    "check": "M5 12l5 5l10 -10",
    "down": "M6 9l6 6l6 -6",
    "out": "M12 6h-6a2 2 0 0 0 -2 2v10a2 2 0 0 0 2 2h10a2 2 0 0 0 2 -2v-6M11 13l9 -9M15 4h5v5",
    "plus": "M12 5v14M5 12h14",
    "theme": "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0 -18M12 3v18M12 14l7 -7M12 19l8.5 -8.5M12 9l4.5 -4.5",
    "user": "M8 7a4 4 0 1 0 8 0a4 4 0 0 0 -8 0M6 21v-2a4 4 0 0 1 4 -4h4a4 4 0 0 1 4 4v2",
}


@register.simple_tag
def icon(name: str) -> SafeString:
    """A picture that says nothing which the text beside it does not say."""
    return format_html(
        '<svg class="icon" viewBox="0 0 24 24" width="24" height="24" fill="none" stroke="currentColor" '
        'stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">'
        '<path d="{}"/></svg>',
        _ICONS[name],
    )


def _state(kinds: dict[str, tuple[texts.Text, str]], value: str) -> SafeString:
    words, tone = kinds.get(value, (value, "quiet"))
    return format_html('<span class="state state-{}">{}</span>', tone, words)


@register.filter
def app_state(value: str) -> SafeString:
    return _state(texts.APP_STATES, str(value))


@register.filter
def manifest_kind(value: str) -> str:
    return str(texts.MANIFESTS.get(value, value))


@register.filter
def use_words(use: Use) -> str:
    """Why a release needs a version, for people."""
    return ", ".join(
        ngettext("%(n)d instance", "%(n)d instances", use.instances) % {"n": use.instances}
        if one == "instances"
        else str(texts.USES[one])
        for one in use.reasons
    )


@register.filter
def upload_state(value: str) -> SafeString:
    return _state(texts.UPLOAD_STATUSES, value)


@register.filter
def import_state(value: str) -> SafeString:
    return _state(texts.IMPORT_STATUSES, value)


@register.filter
def instance_state(value: str) -> SafeString:
    return _state(texts.INSTANCE_STATUSES, value)


@register.filter
def rollout_state(value: str) -> SafeString:
    return _state(texts.ROLLOUT_STATUSES, value)


@register.filter
def domain_state(domain: Domain) -> SafeString:
    held = domain.held
    if held is None:
        return _state(texts.DOMAIN_STATUSES, "proven")
    return _state(texts.DOMAIN_STATUSES, "missing" if held.missing_since else held.status)


@register.filter
def rollout_kind(value: str) -> str:
    return str(rollout_words.KINDS.get(value, value))


@register.filter
def phase_name(value: str) -> str:
    return str(rollout_words.PHASES.get(value, value))


@register.filter
def strategy_name(value: str) -> str:
    return str(how.STRATEGIES.get(value, value))


@register.filter
def event_level(value: str) -> SafeString:
    return _state(texts.EVENT_LEVELS, value)


@register.filter
def role_name(value: str) -> str:
    return str(texts.ROLES.get(value, value))


@register.filter
def scope_name(value: str) -> str:
    return str(texts.SCOPES.get(value, value))


@register.filter
def robot_action(value: str) -> str:
    return str(texts.ROBOT_ACTIONS.get(value, value))


@register.filter
def event_title(event: Event) -> str:
    return str(texts.EVENTS.get(event.code, event.code))


@register.filter
def event_text(event: Event) -> str:
    """The event's sentence; what an engine said about hosts is put in our words."""
    return texts.sentence(str(event.detail.get("cause", "")), event.message)


@register.simple_tag
def why(code: str, reason: str) -> str:
    return texts.sentence(code, reason)


@register.filter
def coded(errors: list[ValidationError | str]) -> list[tuple[str, str]]:
    """(sentence, our code or nothing) of each error of a field or a form."""
    told = []
    for error in getattr(errors, "as_data", lambda: errors)():
        if isinstance(error, ValidationError):
            code = error.code or ""
            told += [(message, code if "." in code else "") for message in error.messages]
        else:
            told.append((str(error), ""))
    return told


@register.filter
def error_id(field: BoundField) -> str:
    return f"{field.auto_id}_error"


def _span(seconds: int) -> str:
    if seconds < 60:
        return ngettext("%(n)d second", "%(n)d seconds", seconds) % {"n": seconds}
    if seconds < 3600:
        return ngettext("%(n)d minute", "%(n)d minutes", seconds // 60) % {"n": seconds // 60}
    if seconds < 86400:
        return ngettext("%(n)d hour", "%(n)d hours", seconds // 3600) % {"n": seconds // 3600}
    return ngettext("%(n)d day", "%(n)d days", seconds // 86400) % {"n": seconds // 86400}


def _time(at: datetime, words: str) -> SafeString:
    full = formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{} UTC">{}</time>', at.isoformat(), full, words)


@register.filter
def age(at: datetime) -> SafeString:
    """How long since, in one unit: 3 minutes."""
    return _time(at, _span(max(0, int((now() - at).total_seconds()))))


@register.filter
def ago(at: datetime) -> SafeString:
    seconds = int((now() - at).total_seconds())
    return _time(at, _("just now") if seconds < 5 else _("%(span)s ago") % {"span": _span(seconds)})


@register.filter
def until(at: datetime) -> SafeString:
    """How long to go, in one unit."""
    return _time(at, _span(max(0, int((at - now()).total_seconds()))))


@register.filter
def clock(at: datetime) -> SafeString:
    """The time of the day, to the second."""
    return _time(at, formats.time_format(timezone.localtime(at), "H:i:s"))


@register.filter
def seconds(value: float) -> str:
    """A span as precisely as it matters: 0.4 s, 12 s, 3 minutes."""
    if value >= 120:
        return _span(int(value))
    return _("%(n)s s") % {"n": formats.number_format(value, 1 if value < 10 else 0)}


@register.filter
def day(at: datetime) -> SafeString:
    return _time(at, formats.date_format(timezone.localtime(at), "DATE_FORMAT"))


@register.filter
def kept_because(reason: Reason) -> str:
    """Why a version stays, in the reader's language."""
    words = texts.KEPT.get(reason.code)
    return str(words) % reason.values if words else reason.words
