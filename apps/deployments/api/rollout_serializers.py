"""Rollouts, what is asked of them, and what differs between releases."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.deployments.api.check_serializers import CheckSerializer
from apps.deployments.models import Release, Rollout
from apps.deployments.selectors import queue_position
from apps.deployments.services.diffing import Change
from apps.deployments.services.reports import report_of, verdict_of
from apps.deployments.services.strategies import Options

FIELDS: tuple[str, ...] = (
    "number",
    "kind",
    "status",
    "queue_position",
    "phase",
    "code",
    "reason",
    "release",
    "version",
    "instances",
    "strategy",
    "max_surge",
    "max_unavailable",
    "steps",
    "step",
    "keep_s",
    "judge_s",
    "verdict",
    "created_at",
    "created_by",
    "began_at",
    "deadline_at",
    "ended_at",
)


class RolloutSerializer(serializers.ModelSerializer[Rollout]):
    """``release`` and ``version`` are null for an undeploy; ``queue_position`` unless it waits (1: it is the next)."""

    release = serializers.IntegerField(source="target.release.number", read_only=True, default=None, allow_null=True)
    version = serializers.CharField(source="target.release.version.tag", read_only=True, default=None, allow_null=True)
    queue_position = serializers.SerializerMethodField()
    verdict = serializers.SerializerMethodField()

    class Meta:
        model = Rollout
        fields = FIELDS
        read_only_fields = fields

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_queue_position(self, rollout: Rollout) -> int | None:
        return queue_position(rollout)

    @extend_schema_field(serializers.DictField())
    def get_verdict(self, rollout: Rollout) -> dict[str, Any]:
        return verdict_of(rollout)


class RolloutDetailSerializer(RolloutSerializer):
    """One rollout, with its switch report: steps and stages with their times (seconds), and the gateways' counts."""

    report = serializers.SerializerMethodField()

    class Meta(RolloutSerializer.Meta):
        fields = (*FIELDS, "report")
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_report(self, rollout: Rollout) -> dict[str, Any]:
        return report_of(rollout)


class PlacementRules(serializers.Serializer[Any]):
    """Where instances may run. What is left out is not restricted; the whole object replaces the last release's."""

    constraints = serializers.ListField(child=serializers.CharField(max_length=200), required=False)
    affinity = serializers.ListField(child=serializers.CharField(max_length=40), required=False)
    anti_affinity = serializers.CharField(max_length=20, required=False)
    min_engine = serializers.CharField(max_length=20, required=False, allow_blank=True)

    def get_fields(self) -> dict[str, Any]:
        # "global" is a word of Python.
        return {**super().get_fields(), "global": serializers.BooleanField(required=False)}


class StepInput(serializers.Serializer[Any]):
    weight = serializers.IntegerField()
    pause_s = serializers.IntegerField(allow_null=True, required=False, default=None)


class CountOrShare(serializers.Field[Any, Any, Any, Any]):
    """A number of instances, or a share such as ``25%``."""

    default_error_messages = {"invalid": "A number of instances, or a share such as 25%."}

    def to_internal_value(self, data: Any) -> int | str:
        if isinstance(data, bool) or not isinstance(data, int | str):
            self.fail("invalid")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field({"oneOf": [{"type": "integer"}, {"type": "string", "example": "25%"}]})
class _CountOrShare(CountOrShare):
    pass


class OptionsInput(serializers.Serializer[Any]):
    """How to go about it. What is left out is the strategy's default."""

    instances = serializers.IntegerField(required=False)
    strategy = serializers.ChoiceField(choices=Rollout.Strategy.choices, required=False)
    max_surge = _CountOrShare(required=False)
    max_unavailable = _CountOrShare(required=False)
    steps = StepInput(many=True, required=False)
    keep_s = serializers.IntegerField(required=False)
    judge_s = serializers.IntegerField(required=False)
    supersede = serializers.BooleanField(required=False)

    OPTIONS = ("strategy", "max_surge", "max_unavailable", "steps", "keep_s", "judge_s", "supersede")

    def options(self) -> tuple[Options, dict[str, Any]]:
        """Of valid data: the options, and what was given beside them."""
        rest = dict(self.validated_data)
        given = {name: rest.pop(name) for name in self.OPTIONS if name in rest}
        return Options(**given), rest


def _values(**more: Any) -> serializers.DictField:
    return serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False, **more), required=False
    )


class RolloutInput(OptionsInput):
    """What is left out stays as in the release that serves, or that is on its way in.

    ``env`` replaces all variables; ``secrets`` and ``settings`` change single ones, and null takes one away.
    """

    version = serializers.CharField(max_length=128)
    env = _values()
    secrets = _values(allow_null=True)
    settings = _values(allow_null=True)
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False
    )
    container_port = serializers.IntegerField(required=False)
    memory_mb = serializers.IntegerField(required=False)
    cpu_millis = serializers.IntegerField(required=False)
    health_path = serializers.CharField(required=False, allow_blank=True)
    readiness = CheckSerializer(required=False)
    liveness = CheckSerializer(required=False)
    on_failure = serializers.ChoiceField(Release.OnFailure.choices, required=False)
    stop_signal = serializers.CharField(required=False, max_length=12)
    stop_grace_s = serializers.IntegerField(required=False)
    placement = PlacementRules(required=False)


class RollbackInput(OptionsInput):
    """To the release of this number; left out: to the last that served before the present one."""

    release = serializers.IntegerField(required=False)


class ScaleInput(serializers.Serializer[Any]):
    instances = serializers.IntegerField()


class ChangeSerializer(serializers.Serializer[Change]):
    """Of a secret both values are ``(secret)``; null: it is not there."""

    field = serializers.CharField()
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)
    secret = serializers.BooleanField()


class DiffSerializer(serializers.Serializer[Any]):
    old = serializers.IntegerField()
    new = serializers.IntegerField()
    changes = ChangeSerializer(many=True)
