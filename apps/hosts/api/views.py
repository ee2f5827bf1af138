"""Input, service, output: for operators, and for the machines that join and report."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.authentication import get_authorization_header
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView

from apps.hosts import operators
from apps.hosts.api.serializers import (
    AvailabilityInput,
    HostSerializer,
    JoinedSerializer,
    JoinInput,
    JoinTokenInput,
    JoinTokenSerializer,
    NewJoinTokenSerializer,
    ReportedSerializer,
    ReportInput,
)
from apps.hosts.models import Host, JoinToken
from apps.hosts.services.hosts import host_remove, host_set_availability
from apps.hosts.services.joining import host_join, join_token_check, join_token_create, join_token_revoke
from apps.hosts.services.onboarding import join_command, registry_trust
from apps.hosts.services.reports import Sample, host_report, identity_of
from apps.tenants.permissions import person


class ForOperators(APIView):
    """For staff with the permission that the method needs. The signed-out are asked to sign in, as at every address;
    to everybody else there is nothing here.
    """

    needs: ClassVar[dict[str, str]]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        operators.require_operator(request.user, self.needs.get(str(request.method), operators.VIEW_HOSTS))


class HostList(ForOperators, generics.ListAPIView[Host]):
    """Every host with its capacity, what is claimed of it, and what it measured."""

    needs: ClassVar[dict[str, str]] = {"GET": operators.VIEW_HOSTS}
    serializer_class = HostSerializer
    queryset = Host.objects.none()

    def get_queryset(self) -> QuerySet[Host]:
        return operators.hosts_listed()


class HostDetail(ForOperators):
    needs: ClassVar[dict[str, str]] = {"GET": operators.VIEW_HOSTS, "DELETE": operators.REMOVE_HOSTS}

    @extend_schema(operation_id="hosts_retrieve", responses=HostSerializer)
    def get(self, request: Request, name: str) -> Response:
        return Response(HostSerializer(operators.host_named(name)).data)

    @extend_schema(operation_id="hosts_destroy", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Forget an empty host. Its name and address may be used by another machine."""
        host_remove(host=operators.host_named(name), by=person(request.user).get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)


class HostAvailability(ForOperators):
    needs: ClassVar[dict[str, str]] = {"POST": operators.CHANGE_HOSTS}

    @extend_schema(operation_id="hosts_availability", request=AvailabilityInput, responses=HostSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Cordon (nothing more is placed there), drain (what runs there moves away), or make active again."""
        given = AvailabilityInput(data=request.data)
        given.is_valid(raise_exception=True)
        host_set_availability(
            host=operators.host_named(name), by=person(request.user).get_username(), **given.validated_data
        )
        return Response(HostSerializer(operators.host_named(name)).data)


class JoinTokenList(ForOperators, generics.ListAPIView[JoinToken]):
    needs: ClassVar[dict[str, str]] = {"GET": operators.VIEW_TOKENS, "POST": operators.MAKE_TOKENS}
    serializer_class = JoinTokenSerializer
    queryset = JoinToken.objects.none()

    def get_queryset(self) -> QuerySet[JoinToken]:
        return operators.tokens_listed()

    @extend_schema(request=JoinTokenInput, responses={201: NewJoinTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token. Its secret, and the command with it, stand in this answer and nowhere else."""
        given = JoinTokenInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked = dict(given.validated_data)
        cluster = operators.cluster_for(asked.pop("cluster"))
        token, secret = join_token_create(cluster=cluster, by=person(request.user), **asked)
        body = {**JoinTokenSerializer(token).data, "secret": secret, "command": join_command(secret)}
        return Response(body, status=status.HTTP_201_CREATED)


class JoinTokenDetail(ForOperators):
    needs: ClassVar[dict[str, str]] = {"DELETE": operators.REVOKE_TOKENS}

    @extend_schema(operation_id="join_tokens_destroy", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Revoke a token, at once. One that was used stays as it is."""
        join_token_revoke(token=operators.token_numbered(pk), by=person(request.user).get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)


class _BySecret(SimpleRateThrottle):
    """So many requests with one secret. Counted in Django's cache: with the default one, in each web process apart.

    Not by address: hosts share one behind NAT, and secrets of 256 bits are not found by trying.
    """

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return f"{self.scope}:{hashlib.sha256(_bearer(request).encode()).hexdigest()}"


class JoinThrottle(_BySecret):
    scope = "hosts-join"
    rate = "20/min"


class ReportThrottle(_BySecret):
    scope = "hosts-report"
    rate = "30/min"


class ForMachines(APIView):
    """Machines have a secret of their own and no user: neither sessions nor API tokens are looked at."""

    authentication_classes = []
    permission_classes = []


class HostJoin(ForMachines):
    throttle_classes = [JoinThrottle]

    @extend_schema(operation_id="hosts_join", auth=[], request=JoinInput, responses={201: JoinedSerializer})
    def post(self, request: Request) -> Response:
        """A machine becomes a host, with a one-time token as the bearer. What join.sh sends."""
        secret = _bearer(request)
        join_token_check(secret=secret)
        given = JoinInput(data=request.data)
        given.is_valid(raise_exception=True)
        registry, registry_ca = registry_trust()
        joined = host_join(secret=secret, **given.validated_data)
        body = {
            "name": joined.host.name,
            "address": joined.host.address,
            "ca": joined.ca,
            "certificate": joined.certificate,
            "report_secret": joined.report_secret,
            "registry": registry,
            "registry_ca": registry_ca,
        }
        return Response(body, status=status.HTTP_201_CREATED)


class HostReport(ForMachines):
    throttle_classes = [ReportThrottle]

    @extend_schema(operation_id="hosts_report", auth=[], request=ReportInput, responses=ReportedSerializer)
    def post(self, request: Request) -> Response:
        """What a joined host measured, with its own secret as the bearer. What berth-host sends every 10 s."""
        identity = identity_of(secret=_bearer(request))
        given = ReportInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked = dict(given.validated_data)
        serial, csr = asked.pop("serial", ""), asked.pop("csr", "")
        answer = host_report(identity=identity, sample=Sample(**asked), serial=serial, csr=csr)
        return Response(ReportedSerializer(answer).data)


def _bearer(request: Request) -> str:
    """The secret of the request; empty if it has none, which nothing is the digest of."""
    scheme, _, secret = get_authorization_header(request).partition(b" ")
    return secret.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
