from __future__ import annotations

from django.urls import path

from apps.hosts.api import views

urlpatterns = [
    # First: no host that joins may take these names.
    path("hosts/join/", views.HostJoin.as_view(), name="api-host-join"),
    path("hosts/report/", views.HostReport.as_view(), name="api-host-report"),
    path("hosts/", views.HostList.as_view(), name="api-hosts"),
    path("hosts/<slug:name>/", views.HostDetail.as_view(), name="api-host"),
    path("hosts/<slug:name>/availability/", views.HostAvailability.as_view(), name="api-host-availability"),
    path("join-tokens/", views.JoinTokenList.as_view(), name="api-join-tokens"),
    path("join-tokens/<int:pk>/", views.JoinTokenDetail.as_view(), name="api-join-token"),
]
