"""A certificate by ACME, all the way: ordered, proven through a real gateway, and shown by it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.discovery import DiscoveryUnavailable, Publisher
from apps.deployments.models import AcmeAccount, App, Certificate
from apps.deployments.reconcile import (
    Clients,
    certificates_publish,
    gateways_observe,
    rebuild_discovery,
    reconcile_certificate,
)
from apps.deployments.reconcile.routes import publish
from apps.deployments.services.certificates import certificate_order, renewals_begin
from apps.deployments.tests.acme_double import AcmeDouble, Problem
from gateway.certificates import FALLBACK_NAME, names_in
from gateway.tests.parts import GATEWAY, PUBLISHER, Gateway, until
from gateway.tests.pki import SEALING_KEY, Authority, fetched, shown
from gateway.tests.zookeeper import ZooKeeper, free_port

pytestmark = [pytest.mark.real, pytest.mark.django_db]
NAME = "shop.example.com"


@pytest.fixture
def parts(tmp_path, settings, world) -> Iterator[SimpleNamespace]:
    zookeeper = ZooKeeper(tmp_path / "zookeeper")
    port = free_port()
    gateway = None
    publisher = Publisher(hosts=zookeeper.hosts, credential=PUBLISHER, gateway_credential=GATEWAY)
    authority = Authority()
    double = None
    try:
        zookeeper.start()
        clients = Clients(discovery=publisher)
        settings.GATEWAY_CERTIFICATE_KEYS = [SEALING_KEY]
        # With other work on the machine the first connection may take longer than one attempt.
        until(lambda: rebuild_discovery(clients) >= 0 and _answers(publisher), "ZooKeeper answers", 60)
        gateway = Gateway(
            tmp_path / "gateway",
            zookeeper.hosts,
            BERTH_GATEWAY_HTTPS_BIND=f"127.0.0.1:{port}",
            BERTH_GATEWAY_CERTIFICATE_KEY=SEALING_KEY,
        )
        gateway.start()
        double = AcmeDouble(authority, ("127.0.0.1", gateway.port))
        settings.ACME_DIRECTORY_URL, settings.ACME_EMAIL = double.directory, "operators@example.com"
        app = world.app()
        world.holds(app, NAME)
        until(lambda: gateways_observe(clients) == 0 and clients.discovery.gateways(), "the gateway is seen")
        yield SimpleNamespace(
            clients=clients, gateway=gateway, port=port, double=double, authority=authority, app=app, world=world
        )
    finally:
        publisher.close()
        if double is not None:
            double.end()
        if gateway is not None:
            gateway.end()
        zookeeper.stop()


def _answers(publisher: Publisher) -> bool:
    try:
        return bool(publisher.epoch())
    except DiscoveryUnavailable:
        return False


def _pass(parts: SimpleNamespace, row: Certificate) -> str:
    """What the workers do every other second."""
    app = App.objects.get(pk=parts.app.pk)
    publish(app.pk, app.slug, parts.clients)
    gateways_observe(parts.clients)
    reconcile_certificate(row.pk)
    certificates_publish(parts.clients)
    row.refresh_from_db()
    return row.status


def test_an_ordered_certificate_is_proven_through_the_gateway_shown_by_it_and_renewed(parts) -> None:
    assert names_in(shown(parts.port, NAME)) == {FALLBACK_NAME}
    row = certificate_order(tenant=parts.world.acme, name=NAME, by=parts.world.alice)
    until(lambda: _pass(parts, row) == "ready", "the certificate")
    until(lambda: names_in(shown(parts.port, NAME)) == {NAME}, "the gateway shows it")
    assert b"HTTP/1.1 503" in fetched(parts.port, NAME, parts.authority)
    # It was looked for once, and only when it was there.
    assert [(name, status) for name, status, _ in parts.double.lookups] == [(NAME, 200)]
    assert parts.double.agreed[0]["contact"] == ["mailto:operators@example.com"]
    assert Event.objects.filter(code="certificate.issued").count() == 1
    # What was answered is answered no more.
    token = next(iter(parts.double.orders.values()))["token"]
    _pass(parts, row)
    until(lambda: parts.gateway.get(NAME, f"/.well-known/acme-challenge/{token}")[0] != 200, "the answer is gone")
    # And once more before its end, by the same account, while the old one is shown.
    first = shown(parts.port, NAME).serial_number
    Certificate.objects.filter(pk=row.pk).update(renew_at=now())
    assert renewals_begin() == 1
    until(lambda: _pass(parts, row) == "ready", "the renewal")
    until(lambda: shown(parts.port, NAME).serial_number != first, "the gateway shows the new one")
    assert fetched(parts.port, NAME, parts.authority)
    assert len(parts.double.accounts) == 1
    account = AcmeAccount.objects.get()
    assert account.uri in parts.double.accounts
    # An account whose address was lost is found by its key.
    AcmeAccount.objects.update(uri="")
    Certificate.objects.filter(pk=row.pk).update(renew_at=now())
    renewals_begin()
    until(lambda: _pass(parts, row) == "ready", "the renewal")
    assert len(parts.double.accounts) == 1
    # An authority that has forgotten the account gets it anew.
    parts.double.accounts.clear()
    Certificate.objects.filter(pk=row.pk).update(renew_at=now())
    renewals_begin()
    until(lambda: _pass(parts, row) == "waiting" and row.code, "the refusal")
    assert row.code == "certificates.account_does_not_exist"
    Certificate.objects.filter(pk=row.pk).update(retry_at=None)
    until(lambda: _pass(parts, row) == "ready", "the renewal")


def test_an_authority_that_finds_another_answer_is_asked_again_later(parts) -> None:
    right, parts.double.gateway = parts.double.gateway, ("127.0.0.1", parts.gateway.status_port)
    row = certificate_order(tenant=parts.world.acme, name=NAME, by=parts.world.alice)
    until(lambda: _pass(parts, row) == "waiting" and row.code, "the refusal")
    assert (row.code, row.attempts) == ("certificates.unauthorized", 1)
    assert "found 404" in row.detail
    assert row.retry_at > now()
    parts.double.gateway = right
    Certificate.objects.filter(pk=row.pk).update(retry_at=None)
    until(lambda: _pass(parts, row) == "ready", "the certificate")
    assert (row.code, row.attempts, row.order) == ("", 0, {})


def test_problems_of_the_authority_become_waits_or_an_end(parts) -> None:
    row = certificate_order(tenant=parts.world.acme, name=NAME, by=parts.world.alice)
    for kind, status, code, attempts in (
        ("serverInternal", "waiting", "certificates.server_internal", 0),
        ("rateLimited", "waiting", "certificates.rate_limited", 0),
        ("rejectedIdentifier", "failed", "certificates.rejected_identifier", 1),
    ):
        reconcile_certificate(0)
        parts.double.problems = [Problem(kind, "words <of> the authority")]
        Certificate.objects.filter(pk=row.pk).update(status="waiting", retry_at=None)
        assert _pass(parts, row) == status
        assert (row.code, row.attempts) == (code, attempts)
    assert Event.objects.filter(code="certificate.failed").count() == 1
