from __future__ import annotations

from django.urls import path

from apps.registry.api import tokens, views

urlpatterns = [
    path("token", tokens.token, name="registry-token"),
    path("jwks", tokens.jwks, name="registry-jwks"),
    path("notifications", views.notifications, name="registry-notifications"),
]
