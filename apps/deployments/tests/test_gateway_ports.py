"""Ports of the gateways: claimed within a quota, never twice, and rested before somebody else gets one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from apps.core.clock import now
from apps.core.errors import BerthError, Denied
from apps.core.models import Event
from apps.deployments.models import App, GatewayPort
from apps.deployments.reconcile.routes import gateways_observe, publish
from apps.deployments.selectors import publication_of
from apps.deployments.services.apps import AppDeleting, app_create, route_touch
from apps.deployments.services.deleting import app_delete
from apps.deployments.services.gateway_ports import PortMissing, PortsExhausted, PortsOfTcp, port_claim, port_release
from apps.deployments.services.protocols import ProtocolInUse, protocol_set
from apps.deployments.services.routing import route_published
from apps.tenants.services.tenants import QuotaExceeded

CLAIMED, RESTING = GatewayPort.Status.CLAIMED, GatewayPort.Status.RESTING


@pytest.fixture(autouse=True)
def pool(settings: Any) -> None:
    settings.GATEWAY_TCP_PORTS = (20000, 20001)
    settings.GATEWAY_PORTS_PER_TENANT = 5
    settings.GATEWAY_PORT_REST_S = 600


def tcp(world: Any, slug: str = "db", **values: Any) -> App:
    return app_create(
        tenant=values.get("tenant", world.acme), slug=slug, by=values.get("by", world.alice), protocol="tcp"
    )


def rested() -> None:
    GatewayPort.objects.update(freed_at=now() - timedelta(seconds=601))


def test_a_port_leads_to_the_app_that_claimed_it(world):
    app = tcp(world)
    port = port_claim(app=app, by=world.bob)
    assert port.port in (20000, 20001)
    found = publication_of(app.pk)
    assert found is not None
    assert found.ports == (port.port,)
    assert Event.objects.get(code="ports.claimed").detail["port"] == port.port


def test_a_pool_that_is_used_up_says_so_and_no_pool_too(world, settings):
    app = tcp(world)
    assert {port_claim(app=app, by=world.bob).port for _ in range(2)} == {20000, 20001}
    with pytest.raises(PortsExhausted):
        port_claim(app=app, by=world.bob)
    settings.GATEWAY_TCP_PORTS = None
    with pytest.raises(PortsExhausted):
        port_claim(app=tcp(world, "other"), by=world.bob)


def test_a_tenant_has_so_many_and_another_tenant_its_own(world, settings):
    settings.GATEWAY_PORTS_PER_TENANT = 1
    port_claim(app=tcp(world), by=world.bob)
    with pytest.raises(QuotaExceeded):
        port_claim(app=tcp(world, "other"), by=world.bob)
    port_claim(app=tcp(world, "theirs", tenant=world.rival, by=world.charlie), by=world.charlie)


def test_only_apps_of_tcp_have_ports_and_only_those_who_deploy_claim_them(world):
    app = tcp(world)
    with pytest.raises(PortsOfTcp):
        port_claim(app=world.app(), by=world.bob)
    for who in (world.vera, world.charlie):
        with pytest.raises(Denied):
            port_claim(app=app, by=who)
    port = port_claim(app=app, by=world.bob).port
    with pytest.raises(Denied):
        port_release(app=app, port=port, by=world.charlie)
    with pytest.raises(PortMissing):
        port_release(app=tcp(world, "other"), port=port, by=world.bob)
    with pytest.raises(ProtocolInUse):
        protocol_set(app=app, protocol="http", by=world.bob)


def test_a_port_that_was_given_back_rests_until_gateways_let_go_of_it_and_time_has_passed(world, loop, discovery):
    app = tcp(world)
    first = port_claim(app=app, by=world.bob).port
    loop.settle()
    discovery.automatic = False
    port_release(app=app, port=first, by=world.bob)
    rested()
    gateways_observe(loop.clients)
    assert GatewayPort.objects.get().status == RESTING, "its route stands still"
    publish(app.pk, app.slug, loop.clients)
    assert GatewayPort.objects.get().zxid == discovery.zxid
    assert discovery.published_last["db"].ports == ()
    gateways_observe(loop.clients)
    assert GatewayPort.objects.exists(), "no gateway has that in force"
    discovery.served = dict.fromkeys(discovery.served, discovery.zxid)
    GatewayPort.objects.update(freed_at=now())
    gateways_observe(loop.clients)
    assert GatewayPort.objects.exists(), "it has not rested"
    rested()
    gateways_observe(loop.clients)
    assert not GatewayPort.objects.exists()


def test_a_resting_port_is_nobodys(world, settings):
    settings.GATEWAY_TCP_PORTS = (20000, 20000)
    app = tcp(world)
    port_claim(app=app, by=world.bob)
    port_release(app=app, port=20000, by=world.bob)
    with pytest.raises(PortsExhausted):
        port_claim(app=tcp(world, "theirs", tenant=world.rival, by=world.charlie), by=world.charlie)


def test_one_publication_of_before_does_not_count_for_a_port_that_was_given_back_since(world, loop, discovery):
    app = tcp(world)
    ports = [port_claim(app=app, by=world.bob).port for _ in range(2)]
    loop.settle()
    route_touch(app_id=app.pk)
    port_release(app=app, port=ports[0], by=world.bob)
    wanted = App.objects.get(pk=app.pk).route_wanted
    route_published(app_id=app.pk, wanted=wanted - 1, epoch="epoch-1", zxid=77)
    assert GatewayPort.objects.get(port=ports[0]).zxid == 0
    route_published(app_id=app.pk, wanted=wanted, epoch="epoch-1", zxid=78)
    assert GatewayPort.objects.get(port=ports[0]).zxid == 78


def test_the_ports_of_a_deleted_app_rest_as_well(world, loop, discovery):
    app = tcp(world)
    port_claim(app=app, by=world.bob)
    loop.settle()
    app_delete(app=app, by=world.alice, confirm="db")
    with pytest.raises(AppDeleting):
        port_claim(app=app, by=world.alice)
    loop.settle()
    assert not App.objects.exists()
    row = GatewayPort.objects.get()
    assert (row.status, row.zxid > 0) == (RESTING, True)
    discovery.served = dict.fromkeys(discovery.served, row.zxid)
    rested()
    gateways_observe(loop.clients)
    assert not GatewayPort.objects.exists()


def test_many_that_claim_at_once_get_a_port_each_and_the_rest_are_told(world_committed, settings):
    world = world_committed
    settings.GATEWAY_TCP_PORTS, settings.GATEWAY_PORTS_PER_TENANT = (20000, 20003), 3
    apps = [tcp(world, f"db{number}") for number in range(4)]
    apps += [tcp(world, f"theirs{number}", tenant=world.rival, by=world.charlie) for number in range(4)]
    gate = threading.Barrier(len(apps))

    def claim(app: App) -> int | str:
        try:
            gate.wait(10)
            who = world.alice if app.tenant_id == world.acme.pk else world.charlie
            return port_claim(app=app, by=who).port
        except BerthError as error:
            return error.code
        finally:
            connection.close()

    with ThreadPoolExecutor(len(apps)) as threads:
        got = list(threads.map(claim, apps))
    ports = [one for one in got if isinstance(one, int)]
    assert sorted(ports) == [20000, 20001, 20002, 20003]
    assert set(got) - set(ports) <= {"quota.exceeded", "ports.exhausted"}
    for tenant in (world.acme, world.rival):
        assert GatewayPort.objects.filter(tenant_id=tenant.pk).count() <= 3
