"""The platform's own images: what there is, and an app from one of them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.deployments.api.serializers import AppSerializer
from apps.deployments.services.base_images import app_from_base
from apps.registry.base_images import BaseImage, base_images
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to
from portal.api.imports import ImportSerializer


class BaseEnvSerializer(serializers.Serializer[object]):
    name = serializers.CharField()
    kind = serializers.CharField(help_text="password: made where it is left out; or name")
    default = serializers.CharField()


class BaseImageSerializer(serializers.Serializer[object]):
    name = serializers.CharField()
    repository = serializers.CharField()
    app = serializers.BooleanField(help_text="runs as it is; the others are to begin a Dockerfile with")
    purpose = serializers.CharField()
    versions = serializers.ListField(child=serializers.CharField())
    port = serializers.IntegerField()
    protocol = serializers.CharField(help_text="http, or tcp: the gateway routes http only")
    health = serializers.CharField()
    volumes = serializers.ListField(child=serializers.CharField(), help_text="data there ends with the instance")
    env = BaseEnvSerializer(many=True)


class BaseAppInput(serializers.Serializer[object]):
    tenant = serializers.CharField(max_length=40)
    slug = serializers.CharField(max_length=40)
    image = serializers.CharField(max_length=40)
    version = serializers.CharField(max_length=128, required=False, default="")
    env = serializers.DictField(child=serializers.CharField(max_length=128), required=False, default=dict)


class BaseAppSerializer(serializers.Serializer[object]):
    app = AppSerializer()
    copy = ImportSerializer()
    generated = serializers.DictField(child=serializers.CharField(), help_text="passwords, shown in this answer only")


def shown(image: BaseImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "repository": image.repository,
        "app": image.app,
        "purpose": image.purpose["en"],
        "versions": list(image.versions),
        "port": image.port,
        "protocol": image.protocol,
        "health": image.health,
        "volumes": list(image.volumes),
        "env": [{"name": one.name, "kind": one.kind, "default": one.default} for one in image.env],
    }


class BaseImageList(APIView):
    @extend_schema(operation_id="base_images_list", responses=BaseImageSerializer(many=True))
    def get(self, request: Request) -> Response:
        person(request.user)
        return Response([shown(one) for one in base_images().values()])


class BaseImageApps(APIView):
    @extend_schema(operation_id="base_images_apps_create", request=BaseAppInput, responses={201: BaseAppSerializer})
    def post(self, request: Request) -> Response:
        """Make an app from an image and deploy it. Passwords that are made stand in this answer and nowhere else."""
        given = BaseAppInput(data=request.data)
        given.is_valid(raise_exception=True)
        values = {**given.validated_data}
        tenant = tenant_visible_to(request.user, values.pop("tenant"))
        made = app_from_base(tenant=tenant, by=person(request.user), **values)
        body = {
            "app": AppSerializer(made.app).data,
            "copy": ImportSerializer(made.copy).data,
            "generated": dict(made.generated),
        }
        return Response(body, status=status.HTTP_201_CREATED)
