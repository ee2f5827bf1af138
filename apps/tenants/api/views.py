"""Input, service, output."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.tenants.api.serializers import (
    MemberSerializer,
    MeSerializer,
    NewTokenSerializer,
    TenantSerializer,
    TokenInput,
    TokenSerializer,
)
from apps.tenants.models import ApiToken, Membership, Tenant
from apps.tenants.permissions import person
from apps.tenants.selectors import memberships_of, tenant_visible_to, tenants_visible_to, tokens_of
from apps.tenants.services.tokens import token_create, token_revoke


class Me(APIView):
    @extend_schema(operation_id="me", responses=MeSerializer)
    def get(self, request: Request) -> Response:
        return Response(MeSerializer(person(request.user)).data)


class TenantList(generics.ListAPIView[Tenant]):
    serializer_class = TenantSerializer
    queryset = Tenant.objects.none()

    def get_queryset(self) -> QuerySet[Tenant]:
        return tenants_visible_to(self.request.user)


class TenantDetail(generics.GenericAPIView[Tenant]):
    serializer_class = TenantSerializer
    queryset = Tenant.objects.none()

    def get(self, request: Request, slug: str) -> Response:
        return Response(TenantSerializer(tenant_visible_to(request.user, slug)).data)


class MemberList(generics.ListAPIView[Membership]):
    serializer_class = MemberSerializer
    queryset = Membership.objects.none()

    def get_queryset(self) -> QuerySet[Membership]:
        return memberships_of(tenant_visible_to(self.request.user, self.kwargs["slug"]))


class TokenList(generics.ListAPIView[ApiToken]):
    """The caller's own tokens, without their secrets."""

    serializer_class = TokenSerializer
    queryset = ApiToken.objects.none()

    def get_queryset(self) -> QuerySet[ApiToken]:
        return tokens_of(person(self.request.user))

    @extend_schema(request=TokenInput, responses={201: NewTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token. Its secret stands in this answer and nowhere else."""
        given = TokenInput(data=request.data)
        given.is_valid(raise_exception=True)
        with_token = request.auth if isinstance(request.auth, ApiToken) else None
        token, secret = token_create(user=person(request.user), by_token=with_token, **given.validated_data)
        body = {**TokenSerializer(token).data, "secret": secret}
        return Response(body, status=status.HTTP_201_CREATED)


class TokenDetail(APIView):
    @extend_schema(operation_id="tokens_destroy", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Revoke a token of the caller's, at once."""
        token_revoke(user=person(request.user), pk=pk)
        return Response(status=status.HTTP_204_NO_CONTENT)
