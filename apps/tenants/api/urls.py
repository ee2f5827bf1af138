from __future__ import annotations

from django.urls import path

from apps.tenants.api import views

urlpatterns = [
    path("me/", views.Me.as_view(), name="api-me"),
    path("tenants/", views.TenantList.as_view(), name="api-tenants"),
    path("tenants/<slug:slug>/members/", views.MemberList.as_view(), name="api-members"),
    path("tokens/", views.TokenList.as_view(), name="api-tokens"),
    path("tokens/<int:pk>/", views.TokenDetail.as_view(), name="api-token"),
]
