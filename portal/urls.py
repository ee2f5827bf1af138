"""Every address of the platform."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("portal.api.urls")),
    path("", include("portal.health")),
    path("", include("portal.joining")),
    path("", include("portal.web.urls")),
]

handler404 = "portal.web.errors.not_found"
handler403 = "portal.web.errors.forbidden"
handler400 = "portal.web.errors.bad_request"
handler500 = "portal.web.errors.server_error"
