"""Apps, releases, rollouts and instances, in and out. Host names are the platform's: tenants don't see them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.core.models import Event
from apps.deployments.api.check_serializers import CheckSerializer
from apps.deployments.checks import liveness_of, readiness_of
from apps.deployments.models import App, FailureCapsule, Instance, Release
from apps.deployments.selectors import app_url


class AppSerializer(serializers.ModelSerializer[App]):
    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    url = serializers.SerializerMethodField()
    instances_ready = serializers.IntegerField(read_only=True, default=0)
    instances_live = serializers.IntegerField(read_only=True, default=0)
    deploy_on_push_by = serializers.SlugRelatedField[Any](slug_field="username", read_only=True)

    class Meta:
        model = App
        fields = (
            "slug",
            "tenant",
            "url",
            "protocol",
            "instances_ready",
            "instances_live",
            "deploy_on_push",
            "deploy_on_push_by",
            "created_at",
            "deleting_at",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.URLField())
    def get_url(self, app: App) -> str:
        return app_url(app)


class AppInput(serializers.Serializer[Any]):
    tenant = serializers.CharField(max_length=40)
    slug = serializers.CharField(max_length=200, trim_whitespace=False)
    protocol = serializers.ChoiceField(App.Protocol.choices, required=False, default=App.Protocol.HTTP.value)


class AppChangeInput(serializers.Serializer[Any]):
    """``deploy_on_push``: tags of this pattern are deployed when they are pushed; empty: none."""

    deploy_on_push = serializers.CharField(max_length=128, allow_blank=True, trim_whitespace=False, required=False)
    protocol = serializers.ChoiceField(App.Protocol.choices, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Say what is to be changed.")
        return attrs


class AppDeleteInput(serializers.Serializer[Any]):
    """``confirm`` is the app's name. Without it the answer says what would go."""

    confirm = serializers.CharField(max_length=200, required=False, allow_blank=True, default="", trim_whitespace=False)


class ReleaseSerializer(serializers.ModelSerializer[Release]):
    """``env_names`` are those of all variables; ``settings`` those that may be read, with their values."""

    version = serializers.CharField(source="version.tag", read_only=True)
    digest = serializers.CharField(source="version.digest", read_only=True)
    env_names = serializers.SerializerMethodField()
    settings = serializers.SerializerMethodField()
    readiness = serializers.SerializerMethodField()
    liveness = serializers.SerializerMethodField()

    class Meta:
        model = Release
        fields = (
            "number",
            "version",
            "digest",
            "env_names",
            "settings",
            "command",
            "container_port",
            "memory_mb",
            "cpu_millis",
            "health_path",
            "readiness",
            "liveness",
            "on_failure",
            "stop_signal",
            "stop_grace_s",
            "placement",
            "created_at",
            "created_by",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_env_names(self, release: Release) -> list[str]:
        return sorted(release.env)

    @extend_schema_field(serializers.DictField(child=serializers.CharField()))
    def get_settings(self, release: Release) -> dict[str, str]:
        return {name: release.env[name] for name in release.env_readable if name in release.env}

    @extend_schema_field(CheckSerializer)
    def get_readiness(self, release: Release) -> dict[str, Any]:
        return readiness_of(release).plain()

    @extend_schema_field(CheckSerializer(allow_null=True))
    def get_liveness(self, release: Release) -> dict[str, Any] | None:
        check = liveness_of(release)
        return None if check is None else check.plain()


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
            "failures",
            "last_check",
            "restarts",
            "retry_at",
            "why",
            "released",
            "created_at",
        )
        read_only_fields = fields


class CapsuleSerializer(serializers.ModelSerializer[FailureCapsule]):
    """``log`` is empty where ``log_missing`` says why. Values of env are hidden in it."""

    uid = serializers.UUIDField(source="instance.uid", read_only=True)

    class Meta:
        model = FailureCapsule
        fields = (
            "uid",
            "created_at",
            "code",
            "reason",
            "exit_code",
            "signal",
            "out_of_memory",
            "last_check",
            "log",
            "log_truncated",
            "log_missing",
        )
        read_only_fields = fields


class EventSerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        fields = ("id", "at", "level", "code", "message", "actor", "detail")
        read_only_fields = fields
