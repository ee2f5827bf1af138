"""What is asked of gateways for an app, as it is published and as it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import QuerySet

from apps.deployments.models import App, GatewayPolicy, GatewayPort, Rollout, SignInPerson
from gateway.contract import Policy, SignIn


@dataclass(frozen=True, slots=True)
class Asked:
    """``asked``: all of it that does not depend on what runs. ``canary_for_testers`` does."""

    asked: Policy
    canary_for_testers: bool


def policy_of(app_id: int, *, tcp: bool) -> Asked:
    """As it is published. Of an app of TCP only the lists of networks: the rest is about requests."""
    row = GatewayPolicy.objects.filter(app_id=app_id).first()
    if row is None:
        return Asked(Policy(), canary_for_testers=False)
    deny, allow = tuple(row.deny), tuple(row.allow)
    if tcp:
        return Asked(Policy(deny=deny, allow=allow), canary_for_testers=False)
    people = tuple(SignInPerson.objects.filter(app_id=app_id).order_by("pk").values_list("digest", flat=True))
    asked = Policy(
        maintenance=row.maintenance,
        https_only=row.https_only,
        hold_ms=row.hold_s * 1000,
        app_rate=row.app_rate,
        client_rate=row.client_rate,
        max_body_bytes=row.max_body_bytes,
        max_header_bytes=row.max_header_bytes,
        answer_timeout_ms=row.answer_timeout_s * 1000,
        hsts_seconds=row.hsts_seconds,
        sign_in=SignIn(row.salt, people) if people else None,
        deny=deny,
        allow=allow,
    )
    return Asked(asked, row.canary_for_testers)


def tested_of(app_id: int) -> int | None:
    """The replica set that a canary under way brings up: what testers may ask for."""
    canary = Rollout.objects.filter(
        app_id=app_id, status__in=Rollout.ACTIVE, strategy=Rollout.Strategy.CANARY, target__isnull=False
    )
    found: int | None = canary.values_list("target_id", flat=True).first()
    return found


def ports_of(app_id: int) -> tuple[int, ...]:
    """The gateways' ports that lead to the app."""
    rows = GatewayPort.objects.filter(owner=app_id, status=GatewayPort.Status.CLAIMED)
    return tuple(rows.order_by("port").values_list("port", flat=True))


def rules_of_gateways(app: App) -> GatewayPolicy:
    """The app's row; one that is not kept, and asks for nothing, where there is none."""
    return GatewayPolicy.objects.filter(app=app).first() or GatewayPolicy(app=app)


def people_of(app: App) -> QuerySet[SignInPerson]:
    return SignInPerson.objects.filter(app=app).defer("digest").order_by("name")


def claimed_ports(app: App) -> QuerySet[GatewayPort]:
    return GatewayPort.objects.filter(owner=app.pk, status=GatewayPort.Status.CLAIMED).order_by("port")


def in_maintenance(app: App) -> bool:
    return GatewayPolicy.objects.filter(app=app, maintenance=True).exists()
