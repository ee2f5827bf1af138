"""What an app speaks: chosen when it is made, changed while nothing of it runs."""

from __future__ import annotations

from django.db import transaction

from apps.core import events
from apps.core.errors import Conflict, Invalid
from apps.deployments.models import App, GatewayPort, Rollout
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.deployments.services.policies import PolicyOfHttp, rules_in_vain
from apps.tenants.models import User
from apps.tenants.permissions import Action, require


class ProtocolInvalid(Invalid):
    code = "protocol.invalid"


class ProtocolInUse(Conflict):
    code = "protocol.in_use"


def protocol_checked(protocol: str) -> str:
    """Raises ProtocolInvalid."""
    if protocol not in App.Protocol.values:
        raise ProtocolInvalid(f"protocol must be one of {', '.join(App.Protocol.values)}.", field="protocol")
    return protocol


@transaction.atomic
def protocol_set(*, app: App, protocol: str, by: User) -> App:
    """Raises Denied, ProtocolInvalid, AppDeleting, PolicyOfHttp, and ProtocolInUse while anything of the app runs.

    What runs was built for the old one: gateways would speak the new one with it from one moment to the next.
    """
    require(by, Action.DEPLOY, app)
    protocol_checked(protocol)
    app = not_going(app_locked(app.pk))
    before = app.protocol
    if protocol == before:
        return app
    wanted = app.replica_sets.filter(wanted__gt=0).exists()
    if wanted or app.instances.filter(released=False).exists() or app.rollouts.filter(status__in=Rollout.OPEN).exists():
        raise ProtocolInUse(
            f"{app.slug} runs: undeploy it or scale it to none, change what it speaks, then deploy it.",
            field="protocol",
        )
    if GatewayPort.objects.filter(owner=app.pk, status=GatewayPort.Status.CLAIMED).exists():
        raise ProtocolInUse(f"{app.slug} has ports of the gateways: give them back first.", field="protocol")
    in_vain = rules_in_vain(app) if protocol == App.Protocol.TCP else []
    if in_vain:
        raise PolicyOfHttp(
            f"{app.slug} has rules that are about requests: take {', '.join(in_vain)} away first.", field="protocol"
        )
    App.objects.filter(pk=app.pk).update(protocol=protocol)
    app.protocol = protocol
    events.record(
        "app.protocol_changed",
        f"{app.slug} speaks {protocol} now.",
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=by.username,
        before=before,
        after=protocol,
    )
    route_touch(app_id=app.pk)
    return app
