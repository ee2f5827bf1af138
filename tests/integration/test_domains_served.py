"""A tenant's own names, from the claim to the answer: real DNS questions, a real ZooKeeper, and a real gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.deployments.discovery import Publisher
from apps.deployments.models import App, Instance, Release, ReplicaSet
from apps.deployments.selectors import publication_of
from apps.deployments.services.domains import domain_add, domain_change, domain_remove
from apps.deployments.tests.naming import Naming
from apps.hosts.models import Host
from gateway import contract
from gateway.tests import parts
from gateway.tests.conftest import make_app, make_gateway, shared_zookeeper
from gateway.tests.parts import until
from tests.nameserver import name_server

pytestmark = pytest.mark.real
__all__ = ["make_app", "make_gateway", "shared_zookeeper"]


@pytest.fixture
def naming() -> Iterator[Naming]:
    with name_server() as server:
        yield Naming(server)


@pytest.fixture
def publisher(shared_zookeeper) -> Iterator[Publisher]:
    own = parts.Publisher(shared_zookeeper.hosts)
    own.wipe()
    own.close()
    made = Publisher(hosts=shared_zookeeper.hosts, credential=parts.PUBLISHER, gateway_credential=parts.GATEWAY)
    made.epoch_begin()
    yield made
    made.close()


def _serves(world, app: App, address: contract.Address) -> None:
    """A healthy instance of the app at this address, as rows."""
    version = world.push(app, "1.0", f"{app.pk:064x}")
    release = Release.objects.create(app=app, number=1, version=version)
    wanted = ReplicaSet.objects.create(app=app, release=release, wanted=1, weight=100)
    host = Host.objects.filter(address=address.host).first() or world.host(address=address.host)
    Instance.objects.create(
        app=app, replica_set=wanted, host=host, port=address.port, status="healthy", container_id=f"{app.pk:064x}"
    )


def test_own_names_wildcards_and_prefixes_serve_once_proven(
    world,
    naming,
    publisher,
    shared_zookeeper,
    make_gateway,
    make_app,
):
    apps = {slug: world.app(slug) for slug in ("shop", "api2")}
    apps["theirs"] = world.app("theirs", tenant=world.rival, by=world.charlie)
    for slug, app in apps.items():
        _serves(world, app, make_app(slug).address)
    gateway = make_gateway(shared_zookeeper.hosts)

    def publish() -> None:
        zxid = max(publisher.publish(slug, lambda app=app: publication_of(app.pk)).zxid for slug, app in apps.items())
        until(lambda: min((one.served for one in publisher.gateways()), default=0) >= zxid, "it is served")

    own = domain_add(app=apps["shop"], name="www.example.com", by=world.alice)
    part = domain_add(app=apps["api2"], name="www.example.com", prefix="/api", by=world.alice)
    wild = domain_add(app=apps["shop"], name="*.example.net", by=world.alice)
    wild_part = domain_add(app=apps["api2"], name="*.example.net", prefix="/v2", by=world.alice)
    idn = domain_add(app=apps["theirs"], name="bücher.example.org", by=world.charlie)
    publish()
    for name in ("www.example.com", "a.example.net", "xn--bcher-kva.example.org"):
        assert gateway.get(name)[0] == 404, "not proven, not routed"
    assert gateway.get("shop.localhost") == (200, "shop")

    for domain in (own, wild, idn):
        naming.proven(domain)
    publish()
    expected = {
        ("www.example.com", "/"): "shop",
        ("www.example.com", "/api"): "api2",
        ("www.example.com", "/api/x?y=/"): "api2",
        ("www.example.com", "/apix"): "shop",
        ("WWW.Example.com.:8080", "/api"): "api2",
        ("a.example.net", "/"): "shop",
        ("b.example.net", "/v2/y"): "api2",
        ("xn--bcher-kva.example.org", "/api"): "theirs",
        ("theirs.localhost", "/"): "theirs",
    }
    assert {key: gateway.get(*key)[1] for key in expected} == expected
    for name in ("example.com", "example.net", "a.b.example.net", "x.www.example.com"):
        assert gateway.get(name)[0] == 404, name

    # A name of one's own below the wildcard counts before it; a prefix moves; what is removed is gone.
    naming.proven(domain_add(app=apps["api2"], name="b.example.net", by=world.alice))
    domain_change(domain=part, prefix="/new", by=world.alice)
    domain_remove(domain=wild_part, by=world.alice)
    publish()
    expected = {
        ("b.example.net", "/v2/y"): "api2",
        ("c.example.net", "/v2/y"): "shop",
        ("www.example.com", "/api"): "shop",
        ("www.example.com", "/new/x"): "api2",
    }
    assert {key: gateway.get(*key)[1] for key in expected} == expected

    # The name changes hands: nothing of it reaches the old tenant's app any more.
    naming.server.forget()
    naming.look(own)
    publish()
    assert gateway.get("www.example.com") == (200, "shop"), "a proof that is gone stops no traffic"
    taken = domain_add(app=apps["theirs"], name="www.example.com", by=world.charlie)
    naming.proven(taken)
    publish()
    for path in ("/", "/new/x", "/api"):
        assert gateway.get("www.example.com", path) == (200, "theirs")
