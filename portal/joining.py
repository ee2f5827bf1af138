"""/join.sh: the script that makes a machine a host. Public: it holds no secret."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.hosts.services.onboarding import join_script


@never_cache
@require_safe
def script(request: HttpRequest) -> HttpResponse:
    return HttpResponse(join_script(), content_type="text/plain; charset=utf-8")


urlpatterns = [path("join.sh", script, name="join-script")]
