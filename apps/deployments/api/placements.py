"""Where an app would run and why, asked or kept. Host names are the platform's: only operators see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from apps.deployments.api.rollout_serializers import PlacementRules
from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to
from apps.deployments.services.explain import (
    LISTED,
    MAX_LISTED,
    explain,
    explanation_visible_to,
    shown,
    stored_plain,
)
from apps.tenants.permissions import Viewer


class ExplainInput(serializers.Serializer[Any]):
    """What is left out is as in the app's last release; ``placement`` replaces all of its rules.

    ``new_release``: as a deploy would place it; else as that many more instances of the last release. A changed
    request is always a new release.
    """

    app = serializers.CharField(max_length=200)
    instances = serializers.IntegerField(required=False)
    memory_mb = serializers.IntegerField(required=False)
    cpu_millis = serializers.IntegerField(required=False)
    placement = PlacementRules(required=False)
    new_release = serializers.BooleanField(default=False)
    limit = serializers.IntegerField(default=LISTED, min_value=1, max_value=MAX_LISTED)


class AskedSerializer(serializers.Serializer[Any]):
    instances = serializers.IntegerField()
    memory_mb = serializers.IntegerField()
    cpu_millis = serializers.IntegerField()
    placement = serializers.DictField()
    new_release = serializers.BooleanField()


class ChosenSerializer(serializers.Serializer[Any]):
    """One instance's host, with the scores of the moment at which it is chosen."""

    host = serializers.CharField()
    scores = serializers.DictField(child=serializers.FloatField())


class HostAnswerSerializer(serializers.Serializer[Any]):
    """``reason`` says why it takes none; it is empty for a host that fits, which has scores instead."""

    host = serializers.CharField()
    zone = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    scores = serializers.DictField(child=serializers.FloatField())
    score = serializers.FloatField()
    instances = serializers.IntegerField()


class QuotaAnswerSerializer(serializers.Serializer[Any]):
    """``left`` is empty for whoever is no member of the tenant."""

    asked = serializers.DictField(child=serializers.IntegerField())
    left = serializers.DictField(child=serializers.IntegerField())
    fits = serializers.BooleanField()


class ExplainedSerializer(serializers.Serializer[Any]):
    """``hosts`` is a list of some of them, the counts are of all. ``host`` is a name or, for tenants, a number."""

    app = serializers.CharField()
    asked = AskedSerializer()
    fits = serializers.BooleanField()
    placed = serializers.IntegerField()
    chosen = ChosenSerializer(many=True)
    hosts_total = serializers.IntegerField()
    hosts_fitting = serializers.IntegerField()
    refused = serializers.DictField(child=serializers.IntegerField())
    exhausted = serializers.DictField(child=serializers.IntegerField())
    quota = QuotaAnswerSerializer()
    hosts = HostAnswerSerializer(many=True)


class ExplanationSerializer(ExplainedSerializer):
    """One that was kept when a deploy was refused; ``code`` is that of the refusal."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    asked_by = serializers.CharField(allow_blank=True)
    code = serializers.CharField()


def _body(viewer: Viewer, app: App, plain: Mapping[str, Any]) -> dict[str, Any]:
    body = shown(plain, app=app, viewer=viewer)
    for key in ("chosen", "hosts"):
        body[key] = [{**one, "host": one["name"] or f"host {one['number']}"} for one in body[key]]
    return {**body, "app": app.slug}


class ExplainThrottle(UserRateThrottle):
    """Each answer has every host of the cluster go through the filters. The portal's page counts with it."""

    scope = "placements-explain"
    rate = "60/min"


class PlacementExplain(APIView):
    throttle_classes = [ExplainThrottle]

    @extend_schema(operation_id="placements_explain", request=ExplainInput, responses=ExplainedSerializer)
    def post(self, request: Request) -> Response:
        """Where it would run, and what each host says to it. Nothing is placed, claimed or kept."""
        given = ExplainInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked = dict(given.validated_data)
        app = app_visible_to(request.user, asked.pop("app"))
        plain = explain(app, viewer=request.user, **asked).plain()
        return Response(ExplainedSerializer(_body(request.user, app, plain)).data)


@extend_schema(exclude=True)
class PlacementExplainBare(PlacementExplain):
    """The same address without its last slash: a POST can't be redirected."""


class ExplanationDetail(APIView):
    @extend_schema(operation_id="placements_explanations_retrieve", responses=ExplanationSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """The explanation that was kept with a refused deploy."""
        kept = explanation_visible_to(request.user, pk)
        body = _body(request.user, kept.app, stored_plain(kept))
        about = {"id": kept.pk, "at": kept.at, "asked_by": kept.asked_by, "code": kept.code}
        return Response(ExplanationSerializer({**body, **about}).data)
