"""Apps, releases, rollouts and instances, in and out. Host names are the platform's: tenants don't see them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.core.models import Event
from apps.deployments.models import App, Instance, Release, Rollout
from apps.deployments.selectors import app_url
from apps.registry.models import Version


class AppSerializer(serializers.ModelSerializer[App]):
    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    url = serializers.SerializerMethodField()
    instances_ready = serializers.IntegerField(read_only=True, default=0)
    instances_live = serializers.IntegerField(read_only=True, default=0)

    class Meta:
        model = App
        fields = ("slug", "tenant", "url", "instances_ready", "instances_live", "created_at")
        read_only_fields = fields

    @extend_schema_field(serializers.URLField())
    def get_url(self, app: App) -> str:
        return app_url(app)


class AppInput(serializers.Serializer[Any]):
    tenant = serializers.CharField(max_length=40)
    slug = serializers.CharField(max_length=200, trim_whitespace=False)


class VersionSerializer(serializers.ModelSerializer[Version]):
    class Meta:
        model = Version
        fields = ("tag", "digest", "media_type", "pushed_by", "pushed_at")
        read_only_fields = fields


class ReleaseSerializer(serializers.ModelSerializer[Release]):
    """``env`` shows names only: values may be secrets."""

    version = serializers.CharField(source="version.tag", read_only=True)
    digest = serializers.CharField(source="version.digest", read_only=True)
    env_names = serializers.SerializerMethodField()

    class Meta:
        model = Release
        fields = (
            "number",
            "version",
            "digest",
            "env_names",
            "command",
            "container_port",
            "memory_mb",
            "cpu_millis",
            "health_path",
            "stop_grace_s",
            "placement",
            "created_at",
            "created_by",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_env_names(self, release: Release) -> list[str]:
        return sorted(release.env)


class RolloutSerializer(serializers.ModelSerializer[Rollout]):
    """``release`` and ``version`` are null for an undeploy."""

    release = serializers.IntegerField(source="target.release.number", read_only=True, default=None, allow_null=True)
    version = serializers.CharField(source="target.release.version.tag", read_only=True, default=None, allow_null=True)

    class Meta:
        model = Rollout
        fields = (
            "number",
            "status",
            "code",
            "reason",
            "release",
            "version",
            "instances",
            "created_at",
            "created_by",
            "deadline_at",
            "ended_at",
        )
        read_only_fields = fields


class PlacementRules(serializers.Serializer[Any]):
    """Where instances may run. What is left out is not restricted; the whole object replaces the last release's."""

    constraints = serializers.ListField(child=serializers.CharField(max_length=200), required=False)
    affinity = serializers.ListField(child=serializers.CharField(max_length=40), required=False)
    anti_affinity = serializers.CharField(max_length=20, required=False)
    min_engine = serializers.CharField(max_length=20, required=False, allow_blank=True)

    def get_fields(self) -> dict[str, Any]:
        # "global" is a word of Python.
        return {**super().get_fields(), "global": serializers.BooleanField(required=False)}


class RolloutInput(serializers.Serializer[Any]):
    """What is left out stays as in the app's last release."""

    version = serializers.CharField(max_length=128)
    instances = serializers.IntegerField(required=False)
    env = serializers.DictField(child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False)
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False
    )
    container_port = serializers.IntegerField(required=False)
    memory_mb = serializers.IntegerField(required=False)
    cpu_millis = serializers.IntegerField(required=False)
    health_path = serializers.CharField(required=False, allow_blank=True)
    stop_grace_s = serializers.IntegerField(required=False)
    placement = PlacementRules(required=False)


class InstanceSerializer(serializers.ModelSerializer[Instance]):
    release = serializers.IntegerField(source="replica_set.release.number", read_only=True)
    version = serializers.CharField(source="replica_set.release.version.tag", read_only=True)

    class Meta:
        model = Instance
        fields = (
            "uid",
            "status",
            "status_since",
            "release",
            "version",
            "container_id",
            "exit_code",
            "code",
            "reason",
            "why",
            "released",
            "created_at",
        )
        read_only_fields = fields


class EventSerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        fields = ("id", "at", "level", "code", "message", "actor", "detail")
        read_only_fields = fields
