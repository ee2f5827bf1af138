"""Rollouts: asked for, looked at, paused, continued, cancelled; and what changes the number of instances."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments import selectors
from apps.deployments.api.rollout_serializers import (
    DiffSerializer,
    RollbackInput,
    RolloutDetailSerializer,
    RolloutInput,
    RolloutSerializer,
    ScaleInput,
)
from apps.deployments.api.serializers import AppSerializer
from apps.deployments.api.views import OfApp
from apps.deployments.models import Rollout
from apps.deployments.services.diffing import release_diff
from apps.deployments.services.releases import ReleaseSettings, base_of
from apps.deployments.services.rollouts import (
    ReleaseMissing,
    rollback_start,
    rollback_target,
    rollout_cancel,
    rollout_continue,
    rollout_pause,
    rollout_start,
    undeploy,
)
from apps.deployments.services.scaling import app_scale
from apps.tenants.permissions import person


class RolloutList(OfApp, generics.ListAPIView[Rollout]):
    serializer_class = RolloutSerializer
    queryset = Rollout.objects.none()

    def get_queryset(self) -> QuerySet[Rollout]:
        return selectors.rollouts_of(self.app)

    @extend_schema(request=RolloutInput, responses={202: RolloutSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Deploy a version: what it begins with is placed before the answer, and carried out by the workers after it.

        While another rollout of the app is open this one waits behind it (status `pending`).
        """
        app = self.app
        given = RolloutInput(data=request.data)
        given.is_valid(raise_exception=True)
        options, asked = given.options()
        version, instances = asked.pop("version"), asked.pop("instances", None)
        rollout = rollout_start(
            app=app,
            version=version,
            by=person(request.user),
            instances=instances,
            settings_=ReleaseSettings(**asked),
            options=options,
        )
        return _accepted(request, rollout, slug)


class RolloutDetail(OfApp):
    @extend_schema(operation_id="apps_rollouts_retrieve", responses=RolloutDetailSerializer)
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(RolloutDetailSerializer(selectors.rollout_of(self.app, number)).data)


class RolloutCancel(OfApp):
    @extend_schema(operation_id="apps_rollouts_cancel", request=None, responses=RolloutSerializer)
    def post(self, request: Request, slug: str, number: int) -> Response:
        """Give it up: what served before serves, as many instances as it had."""
        rollout = rollout_cancel(app=self.app, number=number, by=person(request.user))
        return Response(RolloutSerializer(rollout).data)


class RolloutPause(OfApp):
    @extend_schema(operation_id="apps_rollouts_pause", request=None, responses=RolloutSerializer)
    def post(self, request: Request, slug: str, number: int) -> Response:
        """Let it go no further until it is continued, for a day at most."""
        rollout = rollout_pause(app=self.app, number=number, by=person(request.user))
        return Response(RolloutSerializer(rollout).data)


class RolloutContinue(OfApp):
    @extend_schema(operation_id="apps_rollouts_continue", request=None, responses=RolloutSerializer)
    def post(self, request: Request, slug: str, number: int) -> Response:
        """Let it go on: after a pause, to a canary's next step, or to its end while the old version is only kept."""
        rollout = rollout_continue(app=self.app, number=number, by=person(request.user))
        return Response(RolloutSerializer(rollout).data)


class Rollback(OfApp):
    @extend_schema(operation_id="apps_rollback", request=RollbackInput, responses={202: RolloutSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Roll out a new release with the whole content of an old one; look at the difference first (`.../diff/`)."""
        app = self.app
        given = RollbackInput(data=request.data)
        given.is_valid(raise_exception=True)
        options, asked = given.options()
        rollout = rollback_start(
            app=app,
            release=asked.get("release"),
            by=person(request.user),
            instances=asked.get("instances"),
            options=options,
        )
        return _accepted(request, rollout, slug)


class ReleaseDiff(OfApp):
    @extend_schema(
        operation_id="apps_releases_diff",
        responses=DiffSerializer,
        parameters=[OpenApiParameter("old", int, description="compare with this release; left out: the present one")],
    )
    def get(self, request: Request, slug: str, number: int) -> Response:
        """What would be another with release `number` than with the present one, or with the one given as `old`."""
        app = self.app
        new = rollback_target(app, number)
        asked = request.query_params.get("old", "")
        old = rollback_target(app, _release_number(asked)) if asked else base_of(app)
        if old is None:
            raise ReleaseMissing(f"{slug} has no release yet.")
        body = {"old": old.number, "new": new.number, "changes": release_diff(old=old, new=new)}
        return Response(DiffSerializer(body).data)


class Scale(OfApp):
    @extend_schema(operation_id="apps_scale", request=ScaleInput, responses={202: AppSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Want so many instances of the release that serves; 0 lets the gateway answer that there is none."""
        app = self.app
        given = ScaleInput(data=request.data)
        given.is_valid(raise_exception=True)
        app_scale(app=app, instances=given.validated_data["instances"], by=person(request.user))
        counted = selectors.apps_with_counts(request.user).get(slug=slug)
        return Response(AppSerializer(counted).data, status=status.HTTP_202_ACCEPTED)


class Undeploy(OfApp):
    @extend_schema(operation_id="apps_undeploy", request=None, responses={202: RolloutSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Take the app down: unpublished first, then stopped, removed and freed."""
        return _accepted(request, undeploy(app=self.app, by=person(request.user)), slug)


def _release_number(text: str) -> int:
    """Raises ReleaseMissing for what can be no release's number; int() refuses thousands of digits by an error."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ReleaseMissing("There is no release of that number.")
    return int(text)


def _accepted(request: Request, rollout: Rollout, slug: str) -> Response:
    return Response(
        RolloutSerializer(rollout).data,
        status=status.HTTP_202_ACCEPTED,
        headers={"Location": request.build_absolute_uri(f"/api/v1/apps/{slug}/rollouts/{rollout.number}/")},
    )
