"""What an app's users got lately, and the newest lines of its access log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments import accesslog
from apps.deployments.api.views import OfApp
from apps.deployments.statistics import statistics_of
from apps.deployments.traffic import Traffic
from gateway.contract import AccessLine

KINDS = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")


class LatelySerializer(serializers.Serializer[Any]):
    """``classes``: requests by the first digit of their status, ``0`` where the client went away unanswered."""

    requests = serializers.IntegerField()
    per_second = serializers.FloatField()
    concurrency = serializers.FloatField()
    classes = serializers.DictField(child=serializers.IntegerField())
    errors_5xx = serializers.IntegerField()
    errors_share = serializers.FloatField()
    p50_ms = serializers.FloatField()
    p95_ms = serializers.FloatField()
    p99_ms = serializers.FloatField()
    bytes_in = serializers.IntegerField()
    bytes_out = serializers.IntegerField()


class WindowsSerializer(serializers.Serializer[Any]):
    """The last ten seconds, the last minute and the last hour."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {name: LatelySerializer() for name in ("10s", "1m", "1h")}


class StatisticsSerializer(serializers.Serializer[Any]):
    """``known`` is false where no gateway could be asked; ``complete`` where one could not, or lost its count."""

    known = serializers.BooleanField()
    complete = serializers.BooleanField()
    windows = WindowsSerializer()
    versions = serializers.DictField(child=WindowsSerializer())


class AccessLineSerializer(serializers.Serializer[AccessLine]):
    """``sampled``: for how many requests of the app the line stands. Of the gateway that wrote it nothing is told."""

    at = serializers.SerializerMethodField()
    version = serializers.CharField()
    container = serializers.CharField()
    client = serializers.CharField()
    method = serializers.CharField()
    host = serializers.CharField()
    path = serializers.CharField()
    status = serializers.IntegerField()
    wait_ms = serializers.IntegerField()
    took_ms = serializers.IntegerField()
    bytes_in = serializers.IntegerField()
    bytes_out = serializers.IntegerField()
    request = serializers.CharField()
    sampled = serializers.IntegerField()

    def get_at(self, line: AccessLine) -> datetime:
        return datetime.fromtimestamp(line.at / 1000, UTC)


class AccessLogInput(serializers.Serializer[Any]):
    status = serializers.ChoiceField(KINDS, required=False, help_text="a class of status; none: left unanswered")
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=1000)


class AccessLogSerializer(serializers.Serializer[Any]):
    """``known`` is false where this platform keeps no access log, or it cannot be read now."""

    known = serializers.BooleanField()
    lines = AccessLineSerializer(many=True)


class TrafficDetail(OfApp):
    @extend_schema(operation_id="apps_traffic_retrieve", responses=StatisticsSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Requests, errors, times and bytes of the last 10 s, minute and hour, whole and by version."""
        return Response(StatisticsSerializer(statistics_of(self.app, Traffic())).data)


class AccessLogDetail(OfApp):
    @extend_schema(operation_id="apps_access_log_list", parameters=[AccessLogInput], responses=AccessLogSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The newest requests, the newest first."""
        app = self.app
        given = AccessLogInput(data=request.query_params)
        given.is_valid(raise_exception=True)
        status = given.validated_data.get("status", "")
        kind = {"": "", "none": "0"}.get(status, status[:1])
        lines = accesslog.newest(app, kind=kind, most=given.validated_data["limit"])
        return Response(AccessLogSerializer({"known": lines is not None, "lines": lines or []}).data)
