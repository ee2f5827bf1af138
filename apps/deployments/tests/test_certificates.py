"""Certificates that are sent, published and warned of; orders are in test_ordering."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from django.core.management import call_command

from apps.core.clock import now
from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import Certificate, DomainName
from apps.deployments.pem import CertificateInvalid, bundle_read, names_served
from apps.deployments.reconcile import certificates_publish, rebuild_discovery
from apps.deployments.selectors.certificates import CertificateMissing, certificate_of
from apps.deployments.services.certificates import (
    CertificateTaken,
    HttpsOff,
    NameNotHeld,
    certificate_delete,
    certificate_upload,
    expiries_tell,
    names_changed,
)
from gateway import contract
from gateway.certificates import Certificates
from gateway.tests.pki import SEALING_KEY, Authority, pem

pytestmark = pytest.mark.django_db
AUTHORITY = Authority()


@pytest.fixture(autouse=True)
def https(settings):
    settings.GATEWAY_CERTIFICATE_KEYS = [SEALING_KEY]


@pytest.fixture
def app(world):
    app = world.app()
    world.holds(app, "shop.example.com")
    return app


def upload(world, issued, by=None, tenant=None):
    return certificate_upload(tenant=tenant or world.acme, chain=issued.chain, key=issued.key, by=by or world.alice)


def nodes(loop):
    return {name: contract.Certificate.from_json(payload) for name, payload in loop.discovery.certificate_nodes.items()}


def test_a_certificate_that_is_sent_reaches_a_gateway_as_it_was_and_its_key_is_nowhere_in_clear(
    world, app, loop, tmp_path
):
    issued = AUTHORITY.issue("shop.example.com", "www.example.com")
    made = upload(world, issued)
    assert certificates_publish(loop.clients)
    (sent,) = nodes(loop).values()
    assert sent.names == ("shop.example.com",)
    raw = loop.discovery.certificate_nodes[made.node]
    assert b"PRIVATE" not in raw
    gateway = Certificates(tmp_path, [SEALING_KEY])
    gateway.read({made.node: raw})
    gateway.store()
    (file,) = gateway.wanted()
    assert issued.key in (tmp_path / file).read_text()
    made.refresh_from_db()
    assert made.published == made.wanted
    with_key = Certificate.objects.filter(pk=made.pk).extra(select={"raw": '"deployments_certificate"."key"'})
    assert "PRIVATE" not in with_key.values_list("raw", flat=True).get()


@pytest.mark.parametrize(
    ("problem", "make"),
    [
        ("chain", lambda good: ("text", good.key)),
        ("chain", lambda good: (good.chain + AUTHORITY.issue("b.test").chain, good.key)),
        ("key", lambda good: (good.chain, "text")),
        ("key", lambda good: (good.chain, _encrypted())),
        ("key", lambda good: _pair(AUTHORITY.issue("a.test", key=rsa.generate_private_key(65537, 1024)))),  # noqa: S505
        ("key", lambda good: _pair(AUTHORITY.issue("a.test", key=ec.generate_private_key(ec.SECP521R1())))),
        ("key_of_another", lambda good: (good.chain, AUTHORITY.issue("a.test").key)),
        ("expired", lambda good: _pair(AUTHORITY.issue("a.test", days=-1, since=3))),
        ("not_yet", lambda good: _pair(AUTHORITY.issue("a.test", since=-3))),
        ("size", lambda good: ("x" * 70_000, good.key)),
        ("size", lambda good: _pair(AUTHORITY.issue(*(f"{'x' * 60}.{n}.{'y' * 60}.test" for n in range(90))))),
    ],
)
def test_what_no_client_would_take_is_refused_with_the_reason(problem, make):
    chain, key = make(AUTHORITY.issue("a.test"))
    with pytest.raises(CertificateInvalid) as refused:
        bundle_read(chain, key)
    assert refused.value.extra["problem"] == problem
    assert "PRIVATE" not in refused.value.detail


def _pair(issued):
    return issued.chain, issued.key


def _encrypted():
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()


def test_an_authoritys_own_certificate_is_left_out_and_nothing_but_pem_is_kept():
    issued = AUTHORITY.issue("a.test")
    bundle = bundle_read("Subject: a comment\n\n" + issued.chain, "\n" + issued.key)
    assert bundle.chain.count("BEGIN CERTIFICATE") == 1
    assert "comment" not in bundle.chain
    old = ec.generate_private_key(ec.SECP256R1())
    assert bundle_read(AUTHORITY.sign(old.public_key(), ("a.test",)), pem(old)).names == {"a.test"}


def test_a_wildcard_is_good_for_one_label_and_for_nothing_above():
    held = {"shop.example.com", "a.shop.example.com", "example.com", "*.example.com"}
    assert names_served(["*.example.com"], held) == ["*.example.com", "shop.example.com"]
    assert names_served(["example.com"], held) == ["example.com"]


def test_a_certificate_for_nobodys_name_or_another_tenants_is_refused(world, app):
    world.holds(world.app("bank", world.rival, world.charlie), "bank.example.com")
    for names in (["bank.example.com"], ["elsewhere.example.com"], ["shop.localhost"]):
        with pytest.raises(NameNotHeld):
            upload(world, AUTHORITY.issue(*names))


def test_of_names_of_several_only_the_tenants_own_are_shown_and_only_as_long_as_they_are(world, app, loop):
    bank = world.app("bank", world.rival, world.charlie)
    world.holds(bank, "bank.example.com")
    second = world.holds(app, "www.example.com")
    made = upload(world, AUTHORITY.issue("shop.example.com", "bank.example.com", "www.example.com"))
    certificates_publish(loop.clients)
    assert nodes(loop)[made.node].names == ("shop.example.com", "www.example.com")
    second.held.delete()
    names_changed(tenant_id=world.acme.pk)
    certificates_publish(loop.clients)
    assert nodes(loop)[made.node].names == ("shop.example.com",)
    DomainName.objects.filter(name="shop.example.com").update(tenant=world.rival)
    # Nobody said so: the comparison of everything finds it.
    certificates_publish(loop.clients, everything=True)
    assert nodes(loop) == {}


def test_a_repetition_is_refused_and_nothing_is_written_anew(world, app, loop):
    issued = AUTHORITY.issue("shop.example.com")
    upload(world, issued)
    with pytest.raises(CertificateTaken):
        upload(world, issued)
    certificates_publish(loop.clients)
    zxid = loop.discovery.zxid
    certificates_publish(loop.clients, everything=True)
    assert loop.discovery.zxid == zxid


def test_a_deleted_certificate_goes_from_zookeeper_and_so_does_a_deleted_tenants(world, app, loop):
    made = upload(world, AUTHORITY.issue("shop.example.com"))
    certificates_publish(loop.clients)
    certificate_delete(tenant=world.acme, uid=made.uid, by=world.alice)
    certificates_publish(loop.clients)
    assert nodes(loop) == {}


def test_what_zookeeper_lost_or_was_written_into_it_is_mended_before_an_epoch_begins(world, app, loop):
    made = upload(world, AUTHORITY.issue("shop.example.com"))
    certificates_publish(loop.clients)
    good = nodes(loop)[made.node]
    stolen = contract.Certificate(made.node, ("bank.example.com",), good.chain, good.sealed_key)
    loop.discovery.certificate_nodes = {made.node: stolen.to_json(), "c-99999": stolen.to_json(), "else": b""}
    loop.discovery.epoch_name = ""
    rebuild_discovery(loop.clients)
    assert {name: one.names for name, one in nodes(loop).items()} == {made.node: ("shop.example.com",)}
    assert loop.discovery.epoch_name


def test_another_sealing_key_seals_all_anew(world, app, loop, settings):
    made = upload(world, AUTHORITY.issue("shop.example.com"))
    certificates_publish(loop.clients)
    new = Fernet.generate_key().decode()
    settings.GATEWAY_CERTIFICATE_KEYS = [new]
    certificates_publish(loop.clients, everything=True)
    assert Fernet(new).decrypt(nodes(loop)[made.node].sealed_key.encode())


def test_while_zookeeper_is_away_nothing_is_noted_as_published(world, app, loop):
    made = upload(world, AUTHORITY.issue("shop.example.com"))
    loop.discovery.down = True
    assert not certificates_publish(loop.clients)
    made.refresh_from_db()
    assert made.published < made.wanted


def test_without_a_key_there_is_no_https(world, app, loop, settings):
    settings.GATEWAY_CERTIFICATE_KEYS = []
    with pytest.raises(HttpsOff):
        upload(world, AUTHORITY.issue("shop.example.com"))
    loop.discovery.certificate_nodes = {"c-1": b"kept"}
    assert certificates_publish(loop.clients, everything=True)
    assert loop.discovery.certificate_nodes == {"c-1": b"kept"}


def test_only_owners_and_admins_send_and_delete_certificates_and_strangers_find_none(world, app):
    made = upload(world, AUTHORITY.issue("shop.example.com"))
    for person in (world.bob, world.vera, world.charlie):
        with pytest.raises(Denied):
            upload(world, AUTHORITY.issue("shop.example.com"), by=person)
        with pytest.raises(Denied):
            certificate_delete(tenant=world.acme, uid=made.uid, by=person)
    with pytest.raises(CertificateMissing):
        certificate_of(world.rival, made.uid)
    with pytest.raises(CertificateMissing):
        certificate_delete(tenant=world.rival, uid=made.uid, by=world.charlie)


def test_each_warning_is_given_once_and_begins_anew_with_another_certificate(world, app):
    made = upload(world, AUTHORITY.issue("shop.example.com", days=40))
    said = []
    for days in (40, 29, 28, 13, 6, 0.5, 0.4, -1, -2):
        Certificate.objects.filter(pk=made.pk).update(not_after=now() + timedelta(days=days))
        expiries_tell()
        said.append(Event.objects.filter(code__startswith="certificate.end").count())
    assert said == [0, 1, 1, 2, 3, 4, 4, 5, 5]
    assert [one.detail["days"] for one in Event.objects.filter(code="certificate.ends").order_by("pk")] == [
        30,
        14,
        7,
        1,
    ]
    # Found late, it is told of once.
    Certificate.objects.filter(pk=made.pk).update(not_after=now() + timedelta(days=2), warned_days=None)
    assert (expiries_tell(), expiries_tell()) == (1, 0)


def test_the_platforms_own_comes_from_files_and_is_replaced_by_its_successor(world, loop, tmp_path, settings, capsys):
    for number in (1, 2):
        issued = AUTHORITY.issue("*.apps.example.com", days=80 + number)
        (tmp_path / "chain.pem").write_text(issued.chain)
        (tmp_path / "key.pem").write_text(issued.key)
        call_command("certificate_platform", chain=str(tmp_path / "chain.pem"), key=str(tmp_path / "key.pem"))
    assert "*.apps.example.com until" in capsys.readouterr().out
    certificates_publish(loop.clients)
    (sent,) = nodes(loop).values()
    assert sent.names == ("*.apps.example.com",)
    assert sent.chain == bundle_read(issued.chain, issued.key).chain
    assert Event.objects.filter(code="certificate.platform", tenant_id=None).count() == 2
