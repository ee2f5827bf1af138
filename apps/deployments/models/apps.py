"""Apps."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from apps.core.models import Leased
from apps.hosts.models import Cluster
from apps.tenants.models import Tenant
from apps.tenants.models.tenants import SLUG, valid_slug


class App(Leased):
    """What a tenant deploys. ``slug`` is the appId: the name in the registry, in ZooKeeper and in its address."""

    class Protocol(models.TextChoices):
        """What its instances speak with gateways: gateway.contract.PROTOCOLS."""

        HTTP = "http", "HTTP/1.1"
        H2 = "h2", "HTTP/2 without TLS, as gRPC servers do"
        TCP = "tcp", "TCP"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="apps")
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="apps")
    slug = models.CharField(max_length=40, unique=True, validators=[valid_slug])
    protocol = models.CharField(max_length=4, choices=Protocol, default=Protocol.HTTP, db_default=Protocol.HTTP)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    deploy_on_push = models.CharField(
        max_length=128,
        blank=True,
        default="",
        db_default="",
        help_text="tags that are deployed when pushed; empty: none",
    )
    deploy_on_push_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="who switched it on; it deploys as long as that one may",
    )
    pushes_seen_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="what was pushed until then is no reason to deploy any more"
    )
    deleting_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="since when it is taken apart")
    # Discovery: a change of what should be routed adds to ``route_wanted``; the publisher writes the value that it
    # has published to ``route_published``, with the ZooKeeper transaction that did it.
    route_wanted = models.PositiveBigIntegerField(default=0, editable=False)
    route_published = models.PositiveBigIntegerField(default=0, editable=False)
    route_epoch = models.CharField(max_length=36, blank=True, editable=False)
    route_zxid = models.BigIntegerField(default=0, editable=False)

    class Meta:
        ordering = ("slug",)
        constraints = (models.CheckConstraint(condition=Q(slug__regex=SLUG), name="app_slug_is_a_label"),)
        permissions = (
            ("pull_app", "Can pull the app's images"),
            ("push_app", "Can push the app's images"),
            ("deploy_app", "Can deploy the app"),
            ("manage_app", "Can manage the app"),
        )
        indexes = (
            # the sweep: apps that wait for pushes
            models.Index(fields=["slug"], condition=~Q(deploy_on_push=""), name="app_deploys_on_push"),
            # the sweep: apps whose publication is behind
            models.Index(fields=["id"], condition=Q(route_wanted__gt=F("route_published")), name="app_unpublished"),
        )

    def __str__(self) -> str:
        return self.slug
