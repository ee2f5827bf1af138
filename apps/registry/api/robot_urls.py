"""Below /api/v1/."""

from __future__ import annotations

from django.urls import path

from apps.registry.api import robots

urlpatterns = [
    path("tenants/<slug:slug>/robots/", robots.RobotList.as_view(), name="api-robots"),
    path("tenants/<slug:slug>/robots/<slug:name>/", robots.RobotDetail.as_view(), name="api-robot"),
    path("tenants/<slug:slug>/robots/<slug:name>/secret/", robots.RobotSecret.as_view(), name="api-robot-secret"),
]
