"""What an app's users got lately, and its access log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from apps.deployments import accesslog
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to
from apps.deployments.statistics import Lately, statistics_of
from apps.deployments.traffic import Traffic
from portal.web.gate import MemberRequest, member_page

LINES_SHOWN = 200
#: Choices of the filter: what stands in the address, and the first digit of the status.
KINDS = {"2xx": "2", "3xx": "3", "4xx": "4", "5xx": "5"}


def _rows(windows: dict[str, Lately]) -> list[tuple[str, Lately]]:
    names = {"10s": _("10 s"), "1m": _("1 min"), "1h": _("1 h")}
    return [(names[name], windows[name]) for name in names]


def _context(app: App) -> dict[str, Any]:
    found = statistics_of(app, Traffic())
    return {
        "app": app,
        "known": found.known,
        "complete": found.complete,
        "rows": _rows(found.windows),
        "versions": [(tag, _rows(windows)) for tag, windows in found.versions.items()],
    }


@require_safe
@member_page
def statistics_page(request: MemberRequest, slug: str) -> HttpResponse:
    return render(request, "web/statistics.html", _context(app_visible_to(request.user, slug)))


@require_safe
@member_page
def statistics_live(request: MemberRequest, slug: str) -> HttpResponse:
    """The numbers alone: they are asked for after the page, which does not wait for gateways."""
    return render(request, "web/parts/statistics.html", _context(app_visible_to(request.user, slug)))


@require_safe
@member_page
def access_log_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    kind = request.GET.get("status", "")
    kind = kind if kind in KINDS else ""
    lines = accesslog.newest(app, kind=KINDS.get(kind, ""), most=LINES_SHOWN)
    context = {
        "app": app,
        "known": lines is not None,
        "rows": [(datetime.fromtimestamp(line.at / 1000, UTC), line) for line in lines or []],
        "kind": kind,
        "kinds": list(KINDS),
        "shown": LINES_SHOWN,
        "thinned": any(line.sampled > 1 for line in lines or []),
    }
    return render(request, "web/access_log.html", context)
