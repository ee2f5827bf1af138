"""Input, service, output. Every queryset starts from what the viewer may see."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.core.models import Event
from apps.deployments import selectors
from apps.deployments.api.serializers import (
    AppChangeInput,
    AppDeleteInput,
    AppInput,
    AppSerializer,
    CapsuleSerializer,
    EventSerializer,
    InstanceSerializer,
    ReleaseSerializer,
)
from apps.deployments.models import App, Instance, Release
from apps.deployments.services.apps import app_create
from apps.deployments.services.deleting import app_delete
from apps.deployments.services.protocols import protocol_set
from apps.deployments.services.pushes import deploy_on_push_set
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class OfApp(APIView):
    """For views below /apps/{slug}/."""

    @property
    def app(self) -> App:
        return selectors.app_visible_to(self.request.user, self.kwargs["slug"])


class AppList(generics.ListAPIView[App]):
    serializer_class = AppSerializer
    queryset = App.objects.none()

    def get_queryset(self) -> QuerySet[App]:
        return selectors.apps_with_counts(self.request.user)

    @extend_schema(request=AppInput, responses={201: AppSerializer})
    def post(self, request: Request) -> Response:
        """Make an app: its repository and its address exist from now on."""
        given = AppInput(data=request.data)
        given.is_valid(raise_exception=True)
        tenant = tenant_visible_to(request.user, given.validated_data["tenant"])
        app = app_create(
            tenant=tenant,
            slug=given.validated_data["slug"],
            by=person(request.user),
            protocol=given.validated_data["protocol"],
        )
        return Response(AppSerializer(app).data, status=status.HTTP_201_CREATED)


class AppDetail(APIView):
    @extend_schema(operation_id="apps_retrieve", responses=AppSerializer)
    def get(self, request: Request, slug: str) -> Response:
        app = selectors.apps_with_counts(request.user).filter(slug=slug).first()
        if app is None:
            raise selectors.AppMissing(f"There is no app {slug[:60]!r} that you can see.")
        return Response(AppSerializer(app).data)

    @extend_schema(operation_id="apps_partial_update", request=AppChangeInput, responses=AppSerializer)
    def patch(self, request: Request, slug: str) -> Response:
        """Change what pushes deploy, or what the app speaks."""
        app = selectors.app_visible_to(request.user, slug)
        given = AppChangeInput(data=request.data)
        given.is_valid(raise_exception=True)
        with transaction.atomic():
            if "protocol" in given.validated_data:
                protocol_set(app=app, protocol=given.validated_data["protocol"], by=person(request.user))
            if "deploy_on_push" in given.validated_data:
                deploy_on_push_set(app=app, pattern=given.validated_data["deploy_on_push"], by=person(request.user))
        return Response(AppSerializer(selectors.apps_with_counts(request.user).get(slug=slug)).data)

    @extend_schema(operation_id="apps_destroy", request=AppDeleteInput, responses={202: AppSerializer})
    def delete(self, request: Request, slug: str) -> Response:
        """Delete the app with all that belongs to it. 404 is the answer once it is gone."""
        app = selectors.app_visible_to(request.user, slug)
        given = AppDeleteInput(data=request.data)
        given.is_valid(raise_exception=True)
        app = app_delete(app=app, by=person(request.user), confirm=given.validated_data["confirm"])
        return Response(AppSerializer(app).data, status=status.HTTP_202_ACCEPTED)


class ReleaseList(OfApp, generics.ListAPIView[Release]):
    serializer_class = ReleaseSerializer
    queryset = Release.objects.none()

    def get_queryset(self) -> QuerySet[Release]:
        return selectors.releases_of(self.app)


class InstanceList(OfApp, generics.ListAPIView[Instance]):
    serializer_class = InstanceSerializer
    queryset = Instance.objects.none()

    def get_queryset(self) -> QuerySet[Instance]:
        return selectors.instances_of(self.app)


class CapsuleDetail(OfApp):
    @extend_schema(operation_id="apps_instances_capsule_retrieve", responses=CapsuleSerializer)
    def get(self, request: Request, slug: str, uid: UUID) -> Response:
        """Why an instance ended badly: exit code, signal, last check, and the last lines that it wrote."""
        return Response(CapsuleSerializer(selectors.capsule_of(self.app, uid)).data)


class EventList(OfApp, generics.ListAPIView[Event]):
    serializer_class = EventSerializer
    queryset = Event.objects.none()

    def get_queryset(self) -> QuerySet[Event]:
        return selectors.events_of(self.app)
