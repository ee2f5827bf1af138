"""An app's clean-up: its rules, what they would take, and taking it now."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments.api.views import OfApp
from apps.deployments.keeping import Rules
from apps.deployments.services.retention import BOUNDS, Preview, clean_now, preview, rules_of, rules_set, rules_with
from apps.tenants.permissions import person


class RulesSerializer(serializers.Serializer[Any]):
    """``keep_tags``: patterns with ``*`` and ``?``, one beside the other. What is left out stays as it is."""

    is_on = serializers.BooleanField(required=False)
    keep_last = serializers.IntegerField(required=False, min_value=BOUNDS["keep_last"][0], max_value=1000)
    keep_days = serializers.IntegerField(required=False, min_value=0, max_value=BOUNDS["keep_days"][1])
    keep_tags = serializers.CharField(required=False, allow_blank=True, max_length=1000)
    rollback_releases = serializers.IntegerField(
        required=False, min_value=BOUNDS["rollback_releases"][0], max_value=BOUNDS["rollback_releases"][1]
    )


class ReasonSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    words = serializers.CharField()


class VerdictSerializer(serializers.Serializer[Any]):
    """``goes`` is true where no reason keeps it."""

    tag = serializers.CharField(source="version.tag")
    digest = serializers.CharField(source="version.digest")
    pushed_at = serializers.DateTimeField(source="version.pushed_at")
    goes = serializers.BooleanField()
    reasons = ReasonSerializer(many=True)


class PreviewSerializer(serializers.Serializer[Any]):
    """``untagged``: manifests that nothing names any more. ``freed_bytes``: what the app's images then take less."""

    rules = RulesSerializer()
    going = serializers.IntegerField()
    untagged = serializers.IntegerField()
    freed_bytes = serializers.IntegerField()
    versions = VerdictSerializer(many=True)


class CleanedSerializer(serializers.Serializer[Any]):
    """How many versions are being deleted."""

    versions = serializers.IntegerField()


def _rules(rules: Rules) -> dict[str, Any]:
    return {
        "is_on": rules.is_on,
        "keep_last": rules.keep_last,
        "keep_days": rules.keep_days,
        "keep_tags": " ".join(rules.keep_tags),
        "rollback_releases": rules.rollback_releases,
    }


def _preview(found: Preview) -> Response:
    body = {
        "rules": _rules(found.rules),
        "going": len(found.going),
        "untagged": found.untagged,
        "freed_bytes": found.freed_bytes,
        "versions": found.verdicts,
    }
    return Response(PreviewSerializer(body).data)


class OfRules(OfApp):
    def asked(self, request: Request) -> Rules:
        given = RulesSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return rules_with(rules_of(self.app), **given.validated_data)


class RetentionDetail(OfRules):
    @extend_schema(operation_id="apps_retention_retrieve", responses=RulesSerializer)
    def get(self, request: Request, slug: str) -> Response:
        return Response(_rules(rules_of(self.app)))

    @extend_schema(operation_id="apps_retention_change", request=RulesSerializer, responses=RulesSerializer)
    def patch(self, request: Request, slug: str) -> Response:
        """Change the rules. They are applied once a day; the preview says what they would take."""
        app = self.app
        rules_set(app=app, rules=self.asked(request), by=person(request.user))
        return Response(_rules(rules_of(app)))


class RetentionPreview(OfRules):
    @extend_schema(operation_id="apps_retention_preview", responses=PreviewSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """What the app's rules would take now, and why all else stays."""
        return _preview(preview(app=self.app))

    @extend_schema(operation_id="apps_retention_try", request=RulesSerializer, responses=PreviewSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """The same with other rules, which are not kept."""
        return _preview(preview(app=self.app, rules=self.asked(request)))


class RetentionApply(OfApp):
    @extend_schema(operation_id="apps_retention_apply", request=None, responses={202: CleanedSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Apply the app's rules at once."""
        return Response({"versions": clean_now(app=self.app, by=person(request.user))}, status=202)
