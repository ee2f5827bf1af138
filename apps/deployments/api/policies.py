"""What gateways do with an app's requests, who may sign in to it, and the gateways' ports that lead to it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments.api.views import OfApp
from apps.deployments.models import GatewayPolicy, GatewayPort
from apps.deployments.selectors import claimed_ports, people_of, rules_of_gateways
from apps.deployments.selectors.people import port_address
from apps.deployments.services.gateway_ports import port_claim, port_release
from apps.deployments.services.policies import (
    FIELDS,
    LISTS,
    MOST,
    MOST_PASSWORD,
    SWITCHES,
    person_remove,
    person_set,
    policy_set,
)
from apps.tenants.permissions import person
from gateway.contract.policies import MOST_NETWORKS


def _number(most: int) -> serializers.IntegerField:
    return serializers.IntegerField(required=False, min_value=0, max_value=most)


def _networks() -> serializers.ListField:
    return serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, max_length=MOST_NETWORKS, allow_empty=True
    )


class PolicySerializer(serializers.Serializer[Any]):
    """Seconds, bytes, requests a second; 0 and false are off. ``deny`` and ``allow``: networks (CIDR) or addresses.
    Rates count in each gateway by itself.
    """

    maintenance = serializers.BooleanField(required=False)
    https_only = serializers.BooleanField(required=False)
    hsts_seconds = _number(MOST["hsts_seconds"])
    hold_s = _number(MOST["hold_s"])
    app_rate = _number(MOST["app_rate"])
    client_rate = _number(MOST["client_rate"])
    max_body_bytes = _number(MOST["max_body_bytes"])
    max_header_bytes = _number(MOST["max_header_bytes"])
    answer_timeout_s = _number(MOST["answer_timeout_s"])
    deny = _networks()
    allow = _networks()
    canary_for_testers = serializers.BooleanField(required=False)


class PersonSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()


class PersonInput(serializers.Serializer[Any]):
    """The password is not kept, and nobody can read it again."""

    password = serializers.CharField(max_length=MOST_PASSWORD, trim_whitespace=False, write_only=True)


class PortSerializer(serializers.Serializer[Any]):
    port = serializers.IntegerField()
    address = serializers.SerializerMethodField()
    claimed_at = serializers.DateTimeField()
    claimed_by = serializers.CharField()

    def get_address(self, port: GatewayPort) -> str:
        """Where clients connect to."""
        return port_address(self.context["app"], port.port)


def _policy(row: GatewayPolicy) -> Response:
    return Response({name: getattr(row, name) for name in FIELDS})


class PolicyDetail(OfApp):
    @extend_schema(operation_id="apps_policy_retrieve", responses=PolicySerializer)
    def get(self, request: Request, slug: str) -> Response:
        return _policy(rules_of_gateways(self.app))

    @extend_schema(operation_id="apps_policy_change", request=PolicySerializer, responses=PolicySerializer)
    def patch(self, request: Request, slug: str) -> Response:
        """Change some of the rules. They are in force once gateways have the app's route."""
        app = self.app
        given = PolicySerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return _policy(policy_set(app=app, changes=given.validated_data, by=person(request.user)))

    @extend_schema(operation_id="apps_policy_replace", request=PolicySerializer, responses=PolicySerializer)
    def put(self, request: Request, slug: str) -> Response:
        """The rules as a whole: what is left out is off."""
        app = self.app
        given = PolicySerializer(data=request.data)
        given.is_valid(raise_exception=True)
        off = {**dict.fromkeys(SWITCHES, False), **dict.fromkeys(MOST, 0), **{name: [] for name in LISTS}}
        return _policy(policy_set(app=app, changes={**off, **given.validated_data}, by=person(request.user)))


class PersonList(OfApp):
    @extend_schema(operation_id="apps_policy_people_list", responses=PersonSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """Who may sign in to the app by basic authentication. Of nobody: it asks nobody to."""
        return Response(PersonSerializer(people_of(self.app), many=True).data)


class PersonDetail(OfApp):
    @extend_schema(operation_id="apps_policy_people_set", request=PersonInput, responses=PersonSerializer)
    def put(self, request: Request, slug: str, name: str) -> Response:
        """This one may sign in, with this password from now on."""
        app = self.app
        given = PersonInput(data=request.data)
        given.is_valid(raise_exception=True)
        password = given.validated_data["password"]
        found = person_set(app=app, name=name, password=password, by=person(request.user))
        return Response(PersonSerializer(found).data)

    @extend_schema(operation_id="apps_policy_people_remove", responses={204: None})
    def delete(self, request: Request, slug: str, name: str) -> Response:
        person_remove(app=self.app, name=name, by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)


class PortList(OfApp):
    @extend_schema(operation_id="apps_ports_list", responses=PortSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """The gateways' ports that lead to an app of TCP."""
        app = self.app
        return Response(PortSerializer(claimed_ports(app), many=True, context={"app": app}).data)

    @extend_schema(operation_id="apps_ports_claim", request=None, responses={201: PortSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """One more; which one, the platform picks."""
        app = self.app
        port = port_claim(app=app, by=person(request.user))
        return Response(PortSerializer(port, context={"app": app}).data, status=status.HTTP_201_CREATED)


class PortDetail(OfApp):
    @extend_schema(operation_id="apps_ports_release", responses={204: None})
    def delete(self, request: Request, slug: str, port: int) -> Response:
        """Give it back. It leads nowhere any more, and to nobody else for a while."""
        port_release(app=self.app, port=port, by=person(request.user))
        return Response(status=status.HTTP_204_NO_CONTENT)
