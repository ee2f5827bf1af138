from __future__ import annotations

from django.urls import path

from apps.registry.api import views

urlpatterns = [
    path("token", views.token, name="registry-token"),
    path("notifications", views.notifications, name="registry-notifications"),
]
