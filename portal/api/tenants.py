"""What the API does with a tenant and needs other apps' services for."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments.services.deleting import tenant_delete
from apps.tenants.api import views
from apps.tenants.api.serializers import TenantSerializer
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class TenantDeleteInput(serializers.Serializer[Any]):
    """``confirm`` is the tenant's name. ``with_apps``: its apps are deleted too; else it must have none."""

    confirm = serializers.CharField(max_length=200, required=False, allow_blank=True, default="", trim_whitespace=False)
    with_apps = serializers.BooleanField(required=False, default=False)


class TenantDetail(views.TenantDetail):
    @extend_schema(operation_id="tenants_destroy", request=TenantDeleteInput, responses={202: TenantSerializer})
    def delete(self, request: Request, slug: str) -> Response:
        """Delete the tenant; the accounts of its members stay. 404 is the answer once it is gone."""
        tenant = tenant_visible_to(request.user, slug)
        given = TenantDeleteInput(data=request.data)
        given.is_valid(raise_exception=True)
        tenant = tenant_delete(tenant=tenant, by=person(request.user), **given.validated_data)
        return Response(TenantSerializer(tenant).data, status=status.HTTP_202_ACCEPTED)
