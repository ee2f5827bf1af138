"""Registries of others: a tenant's credentials for them, and images that are copied out of them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from apps.deployments.api.views import OfApp
from apps.deployments.services.imports import app_import
from apps.registry.models import ExternalRegistry, Import
from apps.registry.services.external import external_change, external_create, external_delete, external_named
from apps.registry.services.imports import ImportMissing, imports_of
from apps.registry.trying import external_try
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class ExternalRegistrySerializer(serializers.ModelSerializer[ExternalRegistry]):
    """Without the password, which nobody can read again."""

    class Meta:
        model = ExternalRegistry
        fields = ("name", "host", "username", "created_by", "created_at", "tested_at", "test_code")


class ExternalRegistryInput(serializers.Serializer[object]):
    name = serializers.CharField(max_length=40)
    host = serializers.CharField(max_length=260)
    username = serializers.CharField(max_length=255, trim_whitespace=False)
    password = serializers.CharField(max_length=8000, trim_whitespace=False, write_only=True)


class ExternalRegistryChange(serializers.Serializer[object]):
    username = serializers.CharField(max_length=255, trim_whitespace=False, required=False)
    password = serializers.CharField(max_length=8000, trim_whitespace=False, required=False, write_only=True)


class ImportSerializer(serializers.ModelSerializer[Import]):
    id = serializers.UUIDField(source="uid")
    source = serializers.CharField()  # type: ignore[assignment]  # it is called so

    class Meta:
        model = Import
        fields = (
            "id",
            "source",
            "source_digest",
            "tag",
            "platforms",
            "deploy",
            "status",
            "status_since",
            "deadline_at",
            "attempts",
            "retry_at",
            "total_bytes",
            "copied_bytes",
            "digest",
            "code",
            "detail",
            "pushed_by",
            "created_at",
        )


class ImportInput(serializers.Serializer[object]):
    source = serializers.CharField(  # type: ignore[assignment]  # it is called so
        max_length=500, help_text="registry.example.com/team/app:tag, or …@sha256:…"
    )
    tag = serializers.CharField(max_length=128, required=False, default="", help_text="empty: as at the source")
    deploy = serializers.BooleanField(required=False, default=False)


class ExternalRegistryList(generics.ListAPIView[ExternalRegistry]):
    serializer_class = ExternalRegistrySerializer
    queryset = ExternalRegistry.objects.none()

    def get_queryset(self) -> QuerySet[ExternalRegistry]:
        return tenant_visible_to(self.request.user, self.kwargs["slug"]).external_registries.all()

    @extend_schema(request=ExternalRegistryInput, responses={201: ExternalRegistrySerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Keep a credential for another registry, encrypted. One for each host. For owners and admins."""
        tenant = tenant_visible_to(request.user, slug)
        given = ExternalRegistryInput(data=request.data)
        given.is_valid(raise_exception=True)
        made = external_create(tenant=tenant, by=person(request.user), **given.validated_data)
        return Response(ExternalRegistrySerializer(made).data, status=status.HTTP_201_CREATED)


class ExternalRegistryDetail(APIView):
    @extend_schema(operation_id="registries_retrieve", responses=ExternalRegistrySerializer)
    def get(self, request: Request, slug: str, name: str) -> Response:
        found = external_named(tenant_visible_to(request.user, slug), name)
        return Response(ExternalRegistrySerializer(found).data)

    @extend_schema(
        operation_id="registries_partial_update", request=ExternalRegistryChange, responses=ExternalRegistrySerializer
    )
    def patch(self, request: Request, slug: str, name: str) -> Response:
        """Another user or password. For owners and admins."""
        tenant = tenant_visible_to(request.user, slug)
        given = ExternalRegistryChange(data=request.data)
        given.is_valid(raise_exception=True)
        values = given.validated_data
        external_change(
            tenant=tenant,
            name=name,
            username=values.get("username"),
            password=values.get("password"),
            by=person(request.user),
        )
        return Response(ExternalRegistrySerializer(external_named(tenant, name)).data)

    @extend_schema(operation_id="registries_destroy", responses={204: None})
    def delete(self, request: Request, slug: str, name: str) -> Response:
        """Forget the credential; what was copied with it stays. For owners and admins."""
        external_delete(tenant=tenant_visible_to(request.user, slug), name=name, by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)


class ExternalRegistryTest(APIView):
    @extend_schema(operation_id="registries_test", request=None, responses=ExternalRegistrySerializer)
    def post(self, request: Request, slug: str, name: str) -> Response:
        """Sign in there now, within 20 s, and say what came of it: ``test_code`` is empty where it was let in."""
        tenant = tenant_visible_to(request.user, slug)
        tried = external_try(tenant=tenant, name=name, by=person(request.user))
        return Response(ExternalRegistrySerializer(tried).data)


class ImportList(OfApp, generics.ListAPIView[Import]):
    serializer_class = ImportSerializer
    queryset = Import.objects.none()

    def get_queryset(self) -> QuerySet[Import]:
        return imports_of(self.app.slug)

    @extend_schema(request=ImportInput, responses={202: ImportSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Copy an image from another registry; with ``deploy`` it is rolled out as soon as it is here."""
        app = self.app
        given = ImportInput(data=request.data)
        given.is_valid(raise_exception=True)
        made = app_import(app=app, by=person(request.user), **given.validated_data)
        place = reverse("api-import", kwargs={"slug": slug, "uid": made.uid})
        return Response(ImportSerializer(made).data, status=status.HTTP_202_ACCEPTED, headers={"Location": place})


class ImportDetail(OfApp):
    @extend_schema(operation_id="apps_imports_retrieve", responses=ImportSerializer)
    def get(self, request: Request, slug: str, uid: UUID) -> Response:
        """How far an import is: waiting, resolving, copying; or done, failed, expired."""
        found = imports_of(self.app.slug).filter(uid=uid).first()
        if found is None:
            raise ImportMissing("The app has no such import.")
        return Response(ImportSerializer(found).data)
