"""Gateways as operators see them, and where their counters are read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models import Count, F, IntegerField, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from apps.core.clock import now
from apps.deployments.models import App, Gateway
from apps.deployments.selectors.loop import live_gateways
from gateway.contract import GatewayState

if TYPE_CHECKING:

    class Lagging(Gateway):
        unserved_apps: int
else:
    Lagging = Gateway


def lease_begins() -> datetime:
    """Who was seen since then may still route."""
    return now() - timedelta(seconds=settings.GATEWAY_LEASE_S)


def with_lag(rows: QuerySet[Gateway]) -> QuerySet[Gateway]:
    """With ``unserved_apps``: how many apps' newest publication in the gateway's epoch is behind what it serves.

    A transaction's number says nothing of how many there were between: ZooKeeper counts those of sessions, too.
    """
    late = App.objects.order_by().filter(route_epoch=OuterRef("epoch"), route_zxid__gt=OuterRef("served"))
    counted = late.annotate(one=Value(1)).values("one").annotate(n=Count("pk")).values("n")
    return rows.annotate(unserved_apps=Coalesce(Subquery(counted, output_field=IntegerField()), 0)).order_by(F("name"))


def counting_gateways() -> list[GatewayState]:
    """Those that may still route and whose counters can be read, as they were last seen."""
    return [GatewayState(row.name, row.epoch, row.served, row.stats) for row in live_gateways().exclude(stats="")]
