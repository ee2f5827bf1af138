"""Health checks, in and out."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.deployments.checks import Kind


class CheckSerializer(serializers.Serializer[Any]):
    """A health check. In a request what is left out is the default; times are seconds."""

    kind = serializers.ChoiceField([str(kind) for kind in Kind], required=False)
    path = serializers.CharField(required=False, allow_blank=True)
    statuses = serializers.ListField(child=serializers.IntegerField(), required=False, min_length=2, max_length=2)
    text = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False
    )
    interval_s = serializers.IntegerField(required=False)
    timeout_s = serializers.IntegerField(required=False)
    start_period_s = serializers.IntegerField(required=False)
    failures = serializers.IntegerField(required=False)
