"""What the registry holds, for programs: repositories, versions, what each is made of, and where it runs."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments.api.views import OfApp
from apps.deployments.services.catalogue import (
    RepositoryFacts,
    VersionFacts,
    detail_of,
    facts_of,
    platform_words,
    repositories_visible_to,
    repository_facts,
    version_found,
    versions_listed,
)
from apps.deployments.services.catalogue import VersionDetail as Detail
from apps.deployments.services.versions import version_delete
from apps.registry.models import Manifest, Repository, Version
from apps.tenants.permissions import person


class UseSerializer(serializers.Serializer[Any]):
    """A release that runs the version or is about to. ``reasons``: instances, rollout, traffic, wanted."""

    app = serializers.CharField()
    release = serializers.IntegerField()
    instances = serializers.IntegerField()
    reasons = serializers.ListField(child=serializers.CharField())


class VersionSerializer(serializers.Serializer[Any]):
    """``size_bytes`` is as it is stored, and null until the registry was asked (``kind`` is "unknown" then).

    ``kind`` "artifact" is nothing that could be deployed. ``also`` are other tags of the same digest.
    """

    tag = serializers.CharField(source="version.tag")
    digest = serializers.CharField(source="version.digest")
    current = serializers.BooleanField(source="version.is_current")
    also = serializers.ListField(child=serializers.CharField())
    media_type = serializers.SerializerMethodField()
    kind = serializers.SerializerMethodField()
    size_bytes = serializers.SerializerMethodField()
    platforms = serializers.ListField(child=serializers.CharField())
    pushed_by = serializers.CharField(source="version.pushed_by")
    pushed_at = serializers.DateTimeField(source="version.pushed_at")
    in_use = UseSerializer(source="uses", many=True)

    def get_media_type(self, facts: VersionFacts) -> str:
        return (facts.manifest.media_type if facts.manifest else "") or facts.version.media_type

    def get_kind(self, facts: VersionFacts) -> str:
        return facts.manifest.kind if facts.manifest else Manifest.Kind.UNKNOWN

    def get_size_bytes(self, facts: VersionFacts) -> int | None:
        return facts.manifest.size_bytes if facts.manifest and facts.manifest.kind != Manifest.Kind.UNKNOWN else None


class LayerSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    size_bytes = serializers.IntegerField()


class ImageSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    kind = serializers.CharField()
    platforms = serializers.SerializerMethodField()
    size_bytes = serializers.IntegerField()

    def get_platforms(self, manifest: Manifest) -> list[str]:
        return platform_words(manifest)


class ConfigSerializer(serializers.Serializer[Any]):
    """What the image says of itself. Texts are cut at 1024 characters, and there are at most 64 of each."""

    labels = serializers.DictField(child=serializers.CharField(), default=dict)
    ports = serializers.ListField(child=serializers.CharField(), default=list)
    user = serializers.CharField(default="")
    entrypoint = serializers.ListField(child=serializers.CharField(), default=list)
    command = serializers.ListField(child=serializers.CharField(), default=list)
    stop_signal = serializers.CharField(default="")
    created = serializers.CharField(default="")


class VersionDetailSerializer(VersionSerializer):
    """``images`` are an index's; then ``layers`` and ``config`` are theirs, and empty here."""

    layers = LayerSerializer(many=True)
    images = ImageSerializer(many=True)
    config = ConfigSerializer()

    def to_representation(self, instance: Detail) -> dict[str, Any]:
        facts = instance.facts
        shown = dict(VersionSerializer(facts).data)
        shown["layers"] = LayerSerializer(instance.layers, many=True).data
        shown["images"] = ImageSerializer(instance.images, many=True).data
        shown["config"] = ConfigSerializer(facts.manifest.config if facts.manifest else {}).data
        return shown


class RepositorySerializer(serializers.Serializer[Any]):
    """``size_bytes`` counts each blob once. ``in_use`` has the tag beside each use."""

    name = serializers.CharField(source="repository.name")
    tenant = serializers.CharField(source="repository.tenant.slug")
    public = serializers.BooleanField(source="repository.is_public")
    size_bytes = serializers.IntegerField()
    versions = serializers.IntegerField()
    pushed_at = serializers.DateTimeField(allow_null=True)
    in_use = serializers.SerializerMethodField()

    def get_in_use(self, facts: RepositoryFacts) -> list[dict[str, Any]]:
        return [{"tag": tag, **UseSerializer(use).data} for tag, use in facts.uses]


_DIGEST = OpenApiParameter("digest", OpenApiTypes.STR, description="of a version that its tag names no more")


class VersionList(OfApp, generics.ListAPIView[Version]):
    serializer_class = VersionSerializer
    queryset = Version.objects.none()

    def get_queryset(self) -> QuerySet[Version]:
        return versions_listed(self.app, replaced=self.request.query_params.get("replaced") == "true")

    @extend_schema(
        parameters=[OpenApiParameter("replaced", OpenApiTypes.BOOL, description="also what tags named before")]
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The app's versions, the newest first."""
        return super().get(request, *args, **kwargs)

    def paginate_queryset(self, queryset: Any) -> Any:
        return facts_of(super().paginate_queryset(queryset) or [])


class VersionDetail(OfApp):
    @extend_schema(operation_id="apps_versions_retrieve", parameters=[_DIGEST], responses=VersionDetailSerializer)
    def get(self, request: Request, slug: str, tag: str) -> Response:
        """What a version is made of, and where it runs."""
        version = version_found(self.app, tag, request.query_params.get("digest", ""))
        return Response(VersionDetailSerializer(detail_of(version)).data)

    @extend_schema(operation_id="apps_versions_destroy", parameters=[_DIGEST], responses={204: None})
    def delete(self, request: Request, slug: str, tag: str) -> Response:
        """Delete a version that nothing runs: its tag, and of its content what nothing else needs.

        409 with its ``users`` where something runs it or is about to.
        """
        app = self.app
        version = version_found(app, tag, request.query_params.get("digest", ""))
        version_delete(app=app, version=version, by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)


class RepositoryList(generics.ListAPIView[Repository]):
    serializer_class = RepositorySerializer
    queryset = Repository.objects.none()

    def get_queryset(self) -> QuerySet[Repository]:
        return repositories_visible_to(self.request.user, self.request.query_params.get("tenant", ""))

    @extend_schema(parameters=[OpenApiParameter("tenant", OpenApiTypes.STR, description="only this tenant's")])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The repositories of the apps that you see, with their size."""
        return super().get(request, *args, **kwargs)

    def paginate_queryset(self, queryset: Any) -> Any:
        return repository_facts(super().paginate_queryset(queryset) or [])
