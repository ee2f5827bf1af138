"""Hosts and join tokens, in and out. For operators, and for the machines themselves; tenants see none of it."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.core.clock import now
from apps.hosts.models import Host, JoinToken
from apps.hosts.samples import fresh_samples
from apps.hosts.services.authority import MAX_CSR
from apps.hosts.services.joining import MAX_VALID_S, MIN_VALID_S, VALID_S

_MOST = 2**40


class SamplesSerializer(serializers.Serializer[Any]):
    """Measured within the last two minutes; MiB, and thousandths of a core."""

    at = serializers.DateTimeField()
    cpu_millis_idle = serializers.IntegerField(allow_null=True)
    memory_mb_idle = serializers.IntegerField(allow_null=True)
    disk_mb = serializers.IntegerField(allow_null=True)
    disk_mb_idle = serializers.IntegerField(allow_null=True)


class HostSerializer(serializers.ModelSerializer[Host]):
    cluster = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    samples = serializers.SerializerMethodField(help_text="null where the host has not reported lately")
    certificate_expires_at = serializers.SerializerMethodField(help_text="null for hosts that were added by hand")

    class Meta:
        model = Host
        fields = (
            "name",
            "cluster",
            "address",
            "engine_url",
            "status",
            "availability",
            "zone",
            "labels",
            "memory_mb",
            "memory_mb_reserve",
            "memory_mb_capacity",
            "memory_mb_claimed",
            "memory_mb_free",
            "cpu_millis",
            "cpu_millis_reserve",
            "cpu_millis_capacity",
            "cpu_millis_claimed",
            "samples",
            "disk_pressure",
            "engine_version",
            "os",
            "architecture",
            "last_seen_at",
            "last_error",
            "certificate_expires_at",
            "created_at",
        )
        read_only_fields = fields

    @extend_schema_field(SamplesSerializer(allow_null=True))
    def get_samples(self, host: Host) -> Any:
        found = fresh_samples(host)
        return None if found is None else SamplesSerializer(found).data

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_certificate_expires_at(self, host: Host) -> Any:
        try:
            return host.identity.certificate_expires_at
        except ObjectDoesNotExist:
            return None


class AvailabilityInput(serializers.Serializer[Any]):
    availability = serializers.ChoiceField(choices=Host.Availability.choices)


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    cluster = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    created_by = serializers.CharField(source="created_by.username", default="", read_only=True)
    host = serializers.CharField(source="host.name", default=None, read_only=True, allow_null=True)
    state = serializers.SerializerMethodField(help_text="open, used, revoked or expired")

    class Meta:
        model = JoinToken
        fields = (
            "id",
            "prefix",
            "cluster",
            "state",
            "labels",
            "memory_mb_reserve",
            "cpu_millis_reserve",
            "created_by",
            "created_at",
            "expires_at",
            "used_at",
            "revoked_at",
            "host",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ChoiceField(choices=["open", "used", "revoked", "expired"]))
    def get_state(self, token: JoinToken) -> str:
        return token.state(now())


class JoinTokenInput(serializers.Serializer[Any]):
    cluster = serializers.CharField(max_length=40, default="", allow_blank=True)
    valid_s = serializers.IntegerField(min_value=MIN_VALID_S, max_value=MAX_VALID_S, default=VALID_S)
    labels = serializers.DictField(child=serializers.CharField(max_length=63), required=False)
    memory_mb_reserve = serializers.IntegerField(min_value=0, max_value=2**26, required=False, allow_null=True)
    cpu_millis_reserve = serializers.IntegerField(min_value=0, max_value=2**23, required=False, allow_null=True)


class NewJoinTokenSerializer(JoinTokenSerializer):
    """The only answer that ever holds the secret."""

    secret = serializers.CharField(read_only=True)
    command = serializers.CharField(read_only=True, help_text="to be run as root on the new machine")

    class Meta:
        model = JoinToken
        fields = (*JoinTokenSerializer.Meta.fields, "secret", "command")
        read_only_fields = fields


class JoinInput(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=63)
    address = serializers.CharField(max_length=45)
    csr = serializers.CharField(max_length=MAX_CSR)
    cpu_millis = serializers.IntegerField(min_value=1, max_value=2**23)
    memory_mb = serializers.IntegerField(min_value=1, max_value=2**26)
    disk_mb = serializers.IntegerField(min_value=0, max_value=_MOST)
    labels = serializers.DictField(child=serializers.CharField(max_length=63), required=False)
    engine_version = serializers.CharField(max_length=60, required=False, allow_blank=True)


class JoinedSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    address = serializers.CharField()
    ca = serializers.CharField(help_text="PEM; the engine trusts clients of this authority and no others")
    certificate = serializers.CharField(help_text="PEM; for the engine")
    report_secret = serializers.CharField(help_text="what the host reports with; stands here and nowhere else")
    registry = serializers.CharField(help_text="by which name the host reaches the registry")
    registry_ca = serializers.CharField(help_text="PEM of its authority; empty: one that the system knows")


class ReportInput(serializers.Serializer[Any]):
    cpu_idle_permille = serializers.IntegerField(min_value=0, max_value=1000)
    memory_mb_idle = serializers.IntegerField(min_value=0, max_value=_MOST)
    disk_mb = serializers.IntegerField(min_value=0, max_value=_MOST)
    disk_mb_idle = serializers.IntegerField(min_value=0, max_value=_MOST)
    serial = serializers.RegexField(r"^[0-9A-Fa-f]{1,40}\Z", required=False, allow_blank=True)
    csr = serializers.CharField(max_length=MAX_CSR, required=False, allow_blank=True)


class ReportedSerializer(serializers.Serializer[Any]):
    renew = serializers.BooleanField(help_text="whether to send a certificate request with the next report")
    certificate = serializers.CharField(help_text="PEM of the new certificate, or empty")
