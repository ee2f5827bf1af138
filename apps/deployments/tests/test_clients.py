"""The connections of the workers: whose certificate they show, and how long an engine is kept."""

from __future__ import annotations

from datetime import timedelta

from apps.core.clock import now
from apps.deployments.reconcile.clients import Clients, Material, address_of
from apps.hosts.engines.base import TLSMaterial
from apps.hosts.models import Authority


def test_hosts_that_joined_are_reached_with_the_platforms_certificate_and_others_with_their_own(world):
    ours = TLSMaterial("ca", "certificate", "key")
    joined = world.host(engine_url="https://10.0.0.11:2376")
    by_hand = world.host(engine_url="https://10.0.0.12:2376", tls_ca="A", tls_certificate="B", tls_key="C")
    local = world.host(engine_url="unix:///var/run/docker.sock")
    assert address_of(joined, lambda: ours).tls == ours
    assert address_of(by_hand, lambda: ours).tls == TLSMaterial("A", "B", "C")
    assert address_of(local, lambda: ours).tls is None


def test_an_engine_is_kept_until_its_address_or_the_certificate_changes(world, monkeypatch):
    opened, closed = [], []

    class Fake:
        def __init__(self, address):
            opened.append(address)

        def close(self):
            closed.append(self)

    monkeypatch.setattr("apps.deployments.reconcile.clients.connect", Fake)
    material = [TLSMaterial("ca", "one", "key")]
    clients = Clients(material=lambda: material[0])
    host = world.host(engine_url="https://10.0.0.11:2376")
    first = clients.engine(host)
    assert clients.engine(host) is first
    material[0] = TLSMaterial("ca", "two", "key")
    second = clients.engine(host)
    assert second is not first
    assert closed == [first]
    assert [address.tls.certificate for address in opened] == ["one", "two"]
    host.engine_url = "https://10.0.0.99:2376"
    assert clients.engine(host) is not second
    assert closed == [first, second]


def test_the_database_is_asked_for_the_certificate_once_in_a_while(db, django_assert_num_queries):
    clock = [0.0]
    material = Material(clock=lambda: clock[0])
    first = material()
    with django_assert_num_queries(0):
        assert material() == first
    Authority.objects.update(client_expires_at=now() + timedelta(days=1))
    clock[0] = 61.0
    assert material() != first
