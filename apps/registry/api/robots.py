"""Robot accounts over the API: input, service, output."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.registry.models import Robot
from apps.registry.selectors import robots_of
from apps.registry.services.robots import robot_create, robot_delete, robot_renew
from apps.tenants.models import ApiToken
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class RobotSerializer(serializers.ModelSerializer[Robot]):
    """``login`` is what it gives as its user name; ``app`` is null for all of the tenant's apps."""

    login = serializers.CharField(read_only=True)
    app = serializers.CharField(source="repository.name", read_only=True, allow_null=True, default=None)
    actions = serializers.ListField(child=serializers.ChoiceField(choices=Robot.Action.choices), read_only=True)

    class Meta:
        model = Robot
        fields = (
            "id",
            "name",
            "login",
            "app",
            "actions",
            "prefix",
            "is_active",
            "created_by",
            "created_at",
            "expires_at",
            "last_used_at",
        )
        read_only_fields = fields


class RobotInput(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=40)
    app = serializers.CharField(max_length=40, required=False, allow_null=True, allow_blank=True)
    actions = serializers.ListField(
        child=serializers.ChoiceField(choices=Robot.Action.choices), required=False, allow_empty=False, max_length=10
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class NewRobotSerializer(RobotSerializer):
    """The only answer that ever holds the secret."""

    secret = serializers.CharField(read_only=True)

    class Meta:
        model = Robot
        fields = (*RobotSerializer.Meta.fields, "secret")
        read_only_fields = fields


def _with_token(request: Request) -> ApiToken | None:
    return request.auth if isinstance(request.auth, ApiToken) else None


def _shown(robot: Robot, secret: str) -> dict[str, Any]:
    return {**RobotSerializer(robot).data, "secret": secret}


class RobotList(generics.ListAPIView[Robot]):
    """A tenant's robots, without their secrets; for its members."""

    serializer_class = RobotSerializer
    queryset = Robot.objects.none()

    def get_queryset(self) -> QuerySet[Robot]:
        return robots_of(tenant_visible_to(self.request.user, self.kwargs["slug"]))

    @extend_schema(request=RobotInput, responses={201: NewRobotSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Make a robot. Its secret stands in this answer and nowhere else. For owners and admins."""
        tenant = tenant_visible_to(request.user, slug)
        given = RobotInput(data=request.data)
        given.is_valid(raise_exception=True)
        values = {key: value for key, value in given.validated_data.items() if value}
        robot, secret = robot_create(tenant=tenant, by=person(request.user), by_token=_with_token(request), **values)
        return Response(_shown(robot, secret), status=status.HTTP_201_CREATED)


class RobotDetail(APIView):
    @extend_schema(operation_id="robots_destroy", responses={204: None})
    def delete(self, request: Request, slug: str, name: str) -> Response:
        """Delete a robot; all that signed in as it is signed out at once. For owners and admins."""
        robot_delete(tenant=tenant_visible_to(request.user, slug), by=person(request.user), name=name)
        return Response(status=status.HTTP_204_NO_CONTENT)


class RobotSecret(APIView):
    @extend_schema(operation_id="robots_renew", request=None, responses={201: NewRobotSerializer})
    def post(self, request: Request, slug: str, name: str) -> Response:
        """A new secret for a robot, shown in this answer only; the old one ends at once. For owners and admins."""
        robot, secret = robot_renew(
            tenant=tenant_visible_to(request.user, slug),
            by=person(request.user),
            name=name,
            by_token=_with_token(request),
        )
        return Response(_shown(robot, secret), status=status.HTTP_201_CREATED)
