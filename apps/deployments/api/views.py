"""Input, service, output. Every queryset starts from what the viewer may see."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.core.models import Event
from apps.deployments import selectors
from apps.deployments.api.serializers import (
    AppInput,
    AppSerializer,
    EventSerializer,
    InstanceSerializer,
    ReleaseSerializer,
    RolloutInput,
    RolloutSerializer,
    VersionSerializer,
)
from apps.deployments.models import App, Instance, Release, Rollout
from apps.deployments.services.apps import app_create
from apps.deployments.services.releases import ReleaseSettings
from apps.deployments.services.rollouts import rollout_cancel, rollout_start, undeploy
from apps.registry.models import Version
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
        app = app_create(tenant=tenant, slug=given.validated_data["slug"], by=person(request.user))
        return Response(AppSerializer(app).data, status=status.HTTP_201_CREATED)


class AppDetail(APIView):
    @extend_schema(operation_id="apps_retrieve", responses=AppSerializer)
    def get(self, request: Request, slug: str) -> Response:
        app = selectors.apps_with_counts(request.user).filter(slug=slug).first()
        if app is None:
            raise selectors.AppMissing(f"There is no app {slug[:60]!r} that you can see.")
        return Response(AppSerializer(app).data)


class VersionList(OfApp, generics.ListAPIView[Version]):
    serializer_class = VersionSerializer
    queryset = Version.objects.none()

    def get_queryset(self) -> QuerySet[Version]:
        return selectors.versions_of_app(self.app)


class ReleaseList(OfApp, generics.ListAPIView[Release]):
    serializer_class = ReleaseSerializer
    queryset = Release.objects.none()

    def get_queryset(self) -> QuerySet[Release]:
        return selectors.releases_of(self.app)


class RolloutList(OfApp, generics.ListAPIView[Rollout]):
    serializer_class = RolloutSerializer
    queryset = Rollout.objects.none()

    def get_queryset(self) -> QuerySet[Rollout]:
        return selectors.rollouts_of(self.app)

    @extend_schema(request=RolloutInput, responses={202: RolloutSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Deploy a version: everything is placed before the answer, and carried out by the workers after it."""
        given = RolloutInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked = dict(given.validated_data)
        version, instances = asked.pop("version"), asked.pop("instances", None)
        rollout = rollout_start(
            app=self.app,
            version=version,
            by=person(request.user),
            instances=instances,
            settings_=ReleaseSettings(**asked),
        )
        return _accepted(request, rollout, slug)


class RolloutDetail(OfApp):
    @extend_schema(operation_id="apps_rollouts_retrieve", responses=RolloutSerializer)
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(RolloutSerializer(selectors.rollout_of(self.app, number)).data)


class RolloutCancel(OfApp):
    @extend_schema(operation_id="apps_rollouts_cancel", request=None, responses=RolloutSerializer)
    def post(self, request: Request, slug: str, number: int) -> Response:
        """Give up a rollout that has not moved the traffic yet; what served before serves on."""
        rollout = rollout_cancel(app=self.app, number=number, by=person(request.user))
        return Response(RolloutSerializer(rollout).data)


class Undeploy(OfApp):
    @extend_schema(operation_id="apps_undeploy", request=None, responses={202: RolloutSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Take the app down: unpublished first, then stopped, removed and freed."""
        return _accepted(request, undeploy(app=self.app, by=person(request.user)), slug)


def _accepted(request: Request, rollout: Rollout, slug: str) -> Response:
    return Response(
        RolloutSerializer(rollout).data,
        status=status.HTTP_202_ACCEPTED,
        headers={"Location": request.build_absolute_uri(f"/api/v1/apps/{slug}/rollouts/{rollout.number}/")},
    )


class InstanceList(OfApp, generics.ListAPIView[Instance]):
    serializer_class = InstanceSerializer
    queryset = Instance.objects.none()

    def get_queryset(self) -> QuerySet[Instance]:
        return selectors.instances_of(self.app)


class EventList(OfApp, generics.ListAPIView[Event]):
    serializer_class = EventSerializer
    queryset = Event.objects.none()

    def get_queryset(self) -> QuerySet[Event]:
        return selectors.events_of(self.app)
