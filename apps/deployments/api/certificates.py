"""A tenant's certificates: sent, or ordered; never with their keys."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.deployments.models import Certificate
from apps.deployments.pem import MOST_TEXT
from apps.deployments.selectors.certificates import certificate_of, certificates_of
from apps.deployments.services.certificates import (
    certificate_delete,
    certificate_order,
    certificate_retry,
    certificate_upload,
)
from apps.tenants.permissions import person
from apps.tenants.selectors import tenant_visible_to


class CertificateSerializer(serializers.ModelSerializer[Certificate]):
    """``status`` is of the order that is under way; what is shown is told by ``not_after``, null where nothing is."""

    id = serializers.UUIDField(source="uid")
    source = serializers.CharField()  # type: ignore[assignment]  # it is called so

    class Meta:
        model = Certificate
        fields = (
            "id",
            "source",
            "name",
            "names",
            "issuer",
            "fingerprint",
            "not_before",
            "not_after",
            "renew_at",
            "status",
            "status_since",
            "retry_at",
            "attempts",
            "code",
            "detail",
            "created_by",
            "created_at",
        )


class CertificateInput(serializers.Serializer[object]):
    """Either ``name``, of a domain for which one is to be ordered, or ``chain`` and ``key``, both PEM."""

    name = serializers.CharField(max_length=253, required=False)
    chain = serializers.CharField(max_length=MOST_TEXT, required=False)
    key = serializers.CharField(max_length=MOST_TEXT, required=False, write_only=True)

    def validate(self, attrs: dict[str, str]) -> dict[str, str]:
        if attrs.keys() not in ({"name"}, {"chain", "key"}):
            raise serializers.ValidationError("Give a name, or a chain and its key.")
        return attrs


class CertificateList(generics.ListAPIView[Certificate]):
    serializer_class = CertificateSerializer
    queryset = Certificate.objects.none()

    def get_queryset(self) -> QuerySet[Certificate]:
        return certificates_of(tenant_visible_to(self.request.user, self.kwargs["slug"]))

    @extend_schema(request=CertificateInput, responses={201: CertificateSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Send a certificate with its key, or have one ordered for a domain. For owners and admins."""
        tenant = tenant_visible_to(request.user, slug)
        given = CertificateInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked, by = given.validated_data, person(request.user)
        if "name" in asked:
            made = certificate_order(tenant=tenant, name=asked["name"], by=by)
        else:
            made = certificate_upload(tenant=tenant, chain=asked["chain"], key=asked["key"], by=by)
        return Response(CertificateSerializer(made).data, status=status.HTTP_201_CREATED)


class CertificateDetail(APIView):
    @extend_schema(operation_id="tenants_certificate_retrieve", responses=CertificateSerializer)
    def get(self, request: Request, slug: str, uid: UUID) -> Response:
        return Response(CertificateSerializer(certificate_of(tenant_visible_to(request.user, slug), uid)).data)

    @extend_schema(operation_id="tenants_certificate_destroy", responses={204: None})
    def delete(self, request: Request, slug: str, uid: UUID) -> Response:
        """Its names show it no more."""
        certificate_delete(tenant=tenant_visible_to(request.user, slug), uid=uid, by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)


class CertificateRetry(APIView):
    @extend_schema(operation_id="tenants_certificate_retry", request=None, responses={202: CertificateSerializer})
    def post(self, request: Request, slug: str, uid: UUID) -> Response:
        """Try an order again now that waits or has failed."""
        found = certificate_retry(tenant=tenant_visible_to(request.user, slug), uid=uid, by=person(request.user))
        return Response(CertificateSerializer(found).data, status=status.HTTP_202_ACCEPTED)
