"""An app's host names, in and out: asked for, looked at, changed, given back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments import selectors
from apps.deployments.api.views import OfApp
from apps.deployments.models import Domain
from apps.deployments.selectors.domains import Record, domain_of, domains_of, domains_of_tenant, records_of
from apps.deployments.services.domains import domain_add, domain_change, domain_check, domain_remove
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class RecordSerializer(serializers.Serializer[Any]):
    """A DNS record: one of those listed proves the name."""

    type = serializers.CharField()
    name = serializers.CharField()
    value = serializers.CharField()


class DomainSerializer(serializers.ModelSerializer[Domain]):
    """``shown`` is the name as people write it. ``code`` says why the proof was not seen at ``checked_at``."""

    app = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    shown = serializers.CharField(read_only=True)
    status = serializers.SerializerMethodField()
    code = serializers.CharField(source="held.code", read_only=True, default="")
    proof = serializers.CharField(source="held.proof", read_only=True, default="")
    records = serializers.SerializerMethodField()
    proven_at = serializers.DateTimeField(source="held.proven_at", read_only=True, default=None)
    checked_at = serializers.DateTimeField(source="held.checked_at", read_only=True, default=None)
    check_at = serializers.DateTimeField(source="held.check_at", read_only=True, default=None)
    missing_since = serializers.DateTimeField(source="held.missing_since", read_only=True, default=None)
    expires_at = serializers.SerializerMethodField()

    class Meta:
        model = Domain
        fields = (
            "id",
            "app",
            "name",
            "shown",
            "prefix",
            "is_platform",
            "status",
            "code",
            "proof",
            "records",
            "proven_at",
            "checked_at",
            "check_at",
            "missing_since",
            "expires_at",
            "created_at",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ChoiceField(choices=["pending", "proven", "failed"]))
    def get_status(self, domain: Domain) -> str:
        return "proven" if domain.held is None else str(domain.held.status)

    @extend_schema_field(RecordSerializer(many=True))
    def get_records(self, domain: Domain) -> list[Record]:
        return records_of(domain)

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_expires_at(self, domain: Domain) -> datetime | None:
        """Only of one that waits."""
        return domain.held.expires_at if domain.held is not None and domain.held.status == "pending" else None


class DomainInput(serializers.Serializer[Any]):
    """``name``: a host name, or ``*.`` and one. ``prefix``: the part of it that leads to the app."""

    name = serializers.CharField(max_length=400, trim_whitespace=False)
    prefix = serializers.CharField(max_length=600, required=False, default="/", trim_whitespace=False)


class DomainChangeInput(serializers.Serializer[Any]):
    """``app``: another app of the tenant's."""

    app = serializers.CharField(max_length=40, required=False)
    prefix = serializers.CharField(max_length=600, required=False, trim_whitespace=False)


class DomainList(OfApp, generics.ListAPIView[Domain]):
    serializer_class = DomainSerializer
    queryset = Domain.objects.none()

    def get_queryset(self) -> QuerySet[Domain]:
        return domains_of(self.app)

    @extend_schema(operation_id="apps_domains_create", request=DomainInput, responses={201: DomainSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Ask for a name. It routes once one of its ``records`` was seen in DNS."""
        app = self.app
        given = DomainInput(data=request.data)
        given.is_valid(raise_exception=True)
        domain = domain_add(app=app, by=person(request.user), **given.validated_data)
        return Response(DomainSerializer(domain).data, status=status.HTTP_201_CREATED)


class DomainDetail(OfApp):
    @extend_schema(operation_id="apps_domains_retrieve", responses=DomainSerializer)
    def get(self, request: Request, slug: str, pk: int) -> Response:
        return Response(DomainSerializer(domain_of(self.app, pk)).data)

    @extend_schema(operation_id="apps_domains_change", request=DomainChangeInput, responses=DomainSerializer)
    def patch(self, request: Request, slug: str, pk: int) -> Response:
        """Let it lead to another app of the tenant, or be another part of the name."""
        domain = domain_of(self.app, pk)
        given = DomainChangeInput(data=request.data)
        given.is_valid(raise_exception=True)
        named = given.validated_data.get("app")
        target = None if named is None else selectors.app_visible_to(request.user, named)
        domain = domain_change(
            domain=domain, by=person(request.user), app=target, prefix=given.validated_data.get("prefix")
        )
        return Response(DomainSerializer(domain).data)

    @extend_schema(operation_id="apps_domains_destroy", responses={204: None})
    def delete(self, request: Request, slug: str, pk: int) -> Response:
        """Give it back: it no longer leads to the app."""
        domain_remove(domain=domain_of(self.app, pk), by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)


class DomainCheck(OfApp):
    @extend_schema(operation_id="apps_domains_check", request=None, responses={202: DomainSerializer})
    def post(self, request: Request, slug: str, pk: int) -> Response:
        """Look for the proof now. ``checked_at`` moves when that was done."""
        domain = domain_check(domain=domain_of(self.app, pk), by=person(request.user))
        return Response(DomainSerializer(domain).data, status=status.HTTP_202_ACCEPTED)


class TenantDomainList(generics.ListAPIView[Domain]):
    serializer_class = DomainSerializer
    queryset = Domain.objects.none()

    def get_queryset(self) -> QuerySet[Domain]:
        return domains_of_tenant(tenant_visible_to(self.request.user, self.kwargs["slug"]))
