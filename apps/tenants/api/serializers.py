"""Tenants and tokens, in and out."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.tenants.models import ApiToken, Membership, Quota, Tenant


class QuotaSerializer(serializers.ModelSerializer[Quota]):
    class Meta:
        model = Quota
        fields = (
            "memory_mb",
            "cpu_millis",
            "instances",
            "apps",
            "memory_mb_used",
            "cpu_millis_used",
            "instances_used",
            "storage_mb",
            "storage_bytes_used",
        )
        read_only_fields = fields


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    quota = QuotaSerializer(read_only=True)

    class Meta:
        model = Tenant
        fields = ("slug", "name", "created_at", "deleting_at", "quota")
        read_only_fields = fields


class MemberSerializer(serializers.ModelSerializer[Membership]):
    username = serializers.CharField(source="user.username", read_only=True)

    class Meta:
        model = Membership
        fields = ("username", "role", "created_at")
        read_only_fields = fields


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    class Meta:
        model = ApiToken
        fields = ("id", "name", "prefix", "scopes", "created_at", "expires_at", "last_used_at")
        read_only_fields = fields


class TokenInput(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=ApiToken.Scope.choices), required=False, allow_empty=False, max_length=10
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class NewTokenSerializer(TokenSerializer):
    """The only answer that ever holds the secret."""

    secret = serializers.CharField(read_only=True)

    class Meta:
        model = ApiToken
        fields = (*TokenSerializer.Meta.fields, "secret")
        read_only_fields = fields


class MeSerializer(serializers.Serializer[Any]):
    username = serializers.CharField()
    email = serializers.EmailField()
