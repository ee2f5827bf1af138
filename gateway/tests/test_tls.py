"""What clients of TLS are shown: real HAProxy, real ZooKeeper."""

from __future__ import annotations

import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gateway import contract
from gateway.certificates import FALLBACK_NAME, names_in
from gateway.contract import Certificate
from gateway.tests.parts import App, Gateway, Publisher, until
from gateway.tests.pki import SEALING_KEY, Authority, fetched, protocol, shown
from gateway.tests.zookeeper import ZooKeeper, free_port

pytestmark = pytest.mark.real
Make = Callable[..., App]
MakeGateway = Callable[..., Gateway]
AUTHORITY = Authority()


class Tls:
    """A gateway with HTTPS, and how certificates are published to it."""

    def __init__(self, make: MakeGateway, publisher: Publisher, hosts: str, **extra: str) -> None:
        self.port = free_port()
        self.publisher = publisher
        publisher.client.ensure_path(contract.CERTIFICATE_PATH, acl=publisher.acl)
        self.gateway = make(
            hosts,
            BERTH_GATEWAY_HTTPS_BIND=f"127.0.0.1:{self.port}",
            BERTH_GATEWAY_CERTIFICATE_KEY=SEALING_KEY,
            **extra,
        )

    def publish(self, sent: Certificate) -> None:
        """Returns once it is acknowledged."""
        client, path = self.publisher.client, contract.certificate_path(sent.id)
        if client.exists(path):
            zxid = client.set(path, sent.to_json()).mzxid
        else:
            client.create(path, sent.to_json(), acl=self.publisher.acl)
            zxid = client.exists(path).mzxid
        self.publisher.await_served(zxid)

    def remove(self, name: str) -> None:
        self.publisher.client.delete(contract.certificate_path(name))
        self.publisher.await_served(self.publisher.client.last_zxid)

    def serial(self, name: str | None) -> int | None:
        """Of what is shown for the name; None where that is nobody's certificate."""
        found: x509.Certificate = shown(self.port, name)
        return None if names_in(found) == {FALLBACK_NAME} else found.serial_number


@pytest.fixture
def tls(make_gateway: MakeGateway, publisher: Publisher, shared_zookeeper: ZooKeeper) -> Tls:
    return Tls(make_gateway, publisher, shared_zookeeper.hosts)


def test_a_certificate_is_shown_as_soon_as_it_is_acknowledged(tls: Tls, make_app: Make) -> None:
    app = make_app("one")
    tls.publisher.await_served(tls.publisher.publish("shop", {"1.0": {app.container: app.address}}))
    assert tls.serial("shop.test") is None
    with pytest.raises(ssl.SSLError):
        fetched(tls.port, "shop.test", AUTHORITY)
    tls.publish(AUTHORITY.issue("shop.test").sealed("c-1", "shop.test"))
    answer = fetched(tls.port, "shop.test", AUTHORITY)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"one")
    assert app.requests[-1]["x-forwarded-proto"] == "https"
    assert tls.gateway.status()["haproxy_reloads"] == 0
    assert protocol(tls.port, "shop.test", ("h2", "http/1.1")) == "h2"


def test_nobody_elses_certificate_is_ever_shown(tls: Tls) -> None:
    # It says bank.test as well, and one label more; but it was published for its own names alone.
    mine = AUTHORITY.issue("shop.test", "bank.test", "*.shop.test")
    tls.publish(mine.sealed("c-1", "shop.test", "*.shop.test"))
    assert tls.serial("shop.test") == tls.serial("www.shop.test") == mine.serial
    assert tls.serial("SHOP.test") == mine.serial
    for name in ("bank.test", "a.b.shop.test", "test", "shop.test.evil.test", None):
        assert tls.serial(name) is None


def test_a_renewal_is_seen_at_once_and_never_interrupted(tls: Tls) -> None:
    certificates = [AUTHORITY.issue("shop.test", since=20 - number) for number in range(8)]
    tls.publish(certificates[0].sealed("c-1", "shop.test"))
    for one in certificates[1:]:
        before = tls.serial("shop.test")
        tls.publish(one.sealed("c-1", "shop.test"))
        assert before is not None
        assert tls.serial("shop.test") == one.serial
    assert len(list((tls.gateway.directory / "certificates").glob("*.pem"))) == 1
    assert tls.gateway.status()["haproxy_reloads"] == 0


def test_one_that_is_removed_is_shown_no_more(tls: Tls) -> None:
    tls.publish(AUTHORITY.issue("shop.test").sealed("c-1", "shop.test"))
    tls.remove("c-1")
    assert tls.serial("shop.test") is None
    assert "PRIVATE" not in "".join(path.read_text() for path in (tls.gateway.directory / "certificates").iterdir())


def test_certificates_outlive_reloads_the_agent_and_haproxy(tls: Tls) -> None:
    issued = AUTHORITY.issue("shop.test")
    tls.publish(issued.sealed("c-1", "shop.test"))
    # More apps than there are slots.
    for number in range(40):
        zxid = tls.publisher.publish(f"app-{number}", {})
    tls.publisher.await_served(zxid)
    assert tls.gateway.status()["haproxy_reloads"] >= 1
    assert tls.serial("shop.test") == issued.serial
    renewed = AUTHORITY.issue("shop.test")
    tls.publish(renewed.sealed("c-1", "shop.test"))
    assert tls.serial("shop.test") == renewed.serial
    tls.gateway.signal(signal.SIGKILL)
    assert tls.serial("shop.test") == renewed.serial
    tls.gateway.start()
    again = AUTHORITY.issue("shop.test")
    tls.publish(again.sealed("c-1", "shop.test"))
    assert tls.serial("shop.test") == again.serial
    tls.gateway.signal(signal.SIGTERM)
    # A start without ZooKeeper.
    tls.gateway.set("BERTH_ZOOKEEPER", f"127.0.0.1:{free_port()}")
    tls.gateway.start()
    assert tls.serial("shop.test") == again.serial


def test_a_broken_certificate_stops_neither_apps_nor_other_certificates(tls: Tls, make_app: Make) -> None:
    good = AUTHORITY.issue("shop.test")
    tls.publish(Certificate("c-0", ("bad.test",), good.chain, good.sealed("x", "shop.test").sealed_key))
    tls.publish(good.sealed("c-1", "shop.test"))
    assert tls.serial("shop.test") == good.serial
    assert tls.gateway.status()["certificate_faults"].keys() == {"c-0"}
    app = make_app("one")
    tls.publisher.await_served(tls.publisher.publish("shop", {"1.0": {app.container: app.address}}))
    assert fetched(tls.port, "shop.test", AUTHORITY).endswith(b"one")


def test_a_certificate_that_haproxy_loses_is_brought_back(tls: Tls) -> None:
    """Whoever commands HAProxy by hand: the next reconciliation, which a new connection begins with, mends it."""
    issued = AUTHORITY.issue("shop.test")
    tls.publish(issued.sealed("c-1", "shop.test"))
    (file,) = (tls.gateway.directory / "certificates").glob("*.pem")
    said = subprocess.run(
        ["socat", "-", "UNIX:admin.sock"],
        cwd=tls.gateway.directory,
        input=f"del ssl crt-list certificates.list certificates/{file.name}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "deleted" in said.stdout
    assert tls.serial("shop.test") is None
    tls.gateway.signal(signal.SIGKILL)
    tls.gateway.start()
    until(lambda: tls.serial("shop.test") == issued.serial, "the certificate is back")


def test_openssl_gets_modern_tls_only(tls: Tls) -> None:
    tls.publish(AUTHORITY.issue("shop.test").sealed("c-1", "shop.test"))

    def connects(*options: str) -> bool:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{tls.port}", "-servername", "shop.test", *options]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
        return b"BEGIN CERTIFICATE" in done.stdout

    assert connects("-tls1_3")
    assert connects("-tls1_2")
    assert not connects("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert not connects("-tls1_2", "-cipher", "AES128-SHA")


def test_an_app_with_tls_of_its_own_is_reached_unopened_and_others_as_ever(
    make_gateway: MakeGateway, publisher: Publisher, shared_zookeeper: ZooKeeper, make_app: Make, tmp_path: Path
) -> None:
    tls = Tls(make_gateway, publisher, shared_zookeeper.hosts, BERTH_GATEWAY_TLS_PASSTHROUGH="1")
    own, ours = AUTHORITY.issue("raw.test"), AUTHORITY.issue("shop.test", "raw.test")
    itself = make_app("its own")
    _with_tls(itself, own.chain + own.key, tmp_path)
    app = make_app("one")
    publisher.await_served(publisher.publish("shop", {"1.0": {app.container: app.address}}))
    tls.publish(ours.sealed("c-1", "shop.test", "raw.test"))
    assert tls.serial("raw.test") == ours.serial
    route = contract.Route("raw", 1, weights={"1.0": 100}, protocol="tcp", passthrough=("raw.test",))
    raw = {"1.0": {"a" * 12: itself.address}}
    publisher.await_served(_publish(publisher, route, raw))
    assert tls.serial("raw.test") == tls.serial("RAW.test") == own.serial
    assert fetched(tls.port, "raw.test", AUTHORITY).endswith(b"its own")
    assert tls.serial("shop.test") == ours.serial
    assert tls.serial(None) is None
    assert fetched(tls.port, "shop.test", AUTHORITY).endswith(b"one")
    # The client's address comes through both.
    assert app.requests[-1]["x-forwarded-for"] == "127.0.0.1"
    policy = contract.Policy(deny=("127.0.0.0/8",))
    publisher.await_served(
        _publish(
            publisher,
            contract.Route("raw", 2, weights={"1.0": 100}, protocol="tcp", passthrough=("raw.test",), policy=policy),
            raw,
        )
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetched(tls.port, "raw.test", AUTHORITY)
    assert tls.serial("shop.test") == ours.serial


def _publish(publisher: Publisher, route: contract.Route, versions: dict[str, dict[str, contract.Address]]) -> int:
    """With a whole route, in the publisher's own way."""
    publisher.publish(route.app, versions)
    return int(publisher.client.set(contract.route_path(route.app), route.to_json()).mzxid)


def _with_tls(app: App, pem: str, directory: Path) -> None:
    path = directory / "own.pem"
    path.write_text(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    app._server.socket = context.wrap_socket(app._server.socket, server_side=True)
