"""The API's addresses: /api/v1/ for programs, /api/docs/ for people, /api/registry/ for the registry."""

from __future__ import annotations

from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from portal.api import base_images, imports, streams, tenants, uploads
from portal.api.errors import api_not_found

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("registry/", include("apps.registry.api.urls")),
    path("v1/tenants/<slug:slug>/", tenants.TenantDetail.as_view(), name="api-tenant"),
    path("v1/tenants/<slug:slug>/events/stream/", streams.TenantStream.as_view(), name="api-tenant-stream"),
    path("v1/apps/<slug:slug>/events/stream/", streams.AppStream.as_view(), name="api-app-stream"),
    path("v1/apps/<slug:slug>/uploads/", uploads.UploadList.as_view(), name="api-uploads"),
    path("v1/apps/<slug:slug>/uploads", uploads.UploadListBare.as_view()),
    path("v1/apps/<slug:slug>/uploads/<uuid:uid>/", uploads.UploadDetail.as_view(), name="api-upload"),
    path("v1/base-images/", base_images.BaseImageList.as_view(), name="api-base-images"),
    path("v1/base-images/apps/", base_images.BaseImageApps.as_view(), name="api-base-image-apps"),
    path("v1/apps/<slug:slug>/imports/", imports.ImportList.as_view(), name="api-imports"),
    path("v1/apps/<slug:slug>/imports/<uuid:uid>/", imports.ImportDetail.as_view(), name="api-import"),
    path("v1/tenants/<slug:slug>/registries/", imports.ExternalRegistryList.as_view(), name="api-registries"),
    path(
        "v1/tenants/<slug:slug>/registries/<slug:name>/",
        imports.ExternalRegistryDetail.as_view(),
        name="api-external-registry",
    ),
    path(
        "v1/tenants/<slug:slug>/registries/<slug:name>/test/",
        imports.ExternalRegistryTest.as_view(),
        name="api-external-registry-test",
    ),
    path("v1/", include("apps.tenants.api.urls")),
    path("v1/", include("apps.registry.api.robot_urls")),
    path("v1/", include("apps.deployments.api.urls")),
    path("v1/", include("apps.hosts.api.urls")),
    re_path(r".*", api_not_found),
]
