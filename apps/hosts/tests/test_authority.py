"""The platform's authority: what it signs, what it refuses, and who makes it when two ask at once."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.db import connection

from apps.core.clock import now
from apps.core.models import Event
from apps.hosts.engines.base import TLSMaterial
from apps.hosts.engines.docker_tls import context
from apps.hosts.models import Authority
from apps.hosts.services import authority as module
from apps.hosts.services.authority import CsrInvalid, authority, client_material, server_certificate
from apps.hosts.tests.machine import csr


def _extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def _issue(**values):
    issued = server_certificate(**{"csr": csr(), "name": "metal-1", "address": "10.0.0.11", **values})
    return x509.load_pem_x509_certificate(issued.certificate.encode()), issued


def test_the_authority_may_sign_certificates_of_leaves_and_nothing_else(db):
    ca = x509.load_pem_x509_certificate(authority().certificate.encode())
    constraints, usage = _extension(ca, x509.BasicConstraints), _extension(ca, x509.KeyUsage)
    assert constraints.critical
    assert usage.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)
    assert ca.not_valid_after_utc - now() > timedelta(days=3650)


def test_a_hosts_certificate_is_for_its_address_and_name_and_for_servers_only(db):
    made, issued = _issue()
    ca = x509.load_pem_x509_certificate(authority().certificate.encode())
    made.verify_directly_issued_by(ca)
    names = _extension(made, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.11")]
    assert names.get_values_for_type(x509.DNSName) == ["metal-1"]
    assert list(_extension(made, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not _extension(made, x509.BasicConstraints).value.ca
    assert (
        _extension(made, x509.AuthorityKeyIdentifier).value.key_identifier
        == _extension(ca, x509.SubjectKeyIdentifier).value.digest
    )
    assert issued.expires_at == made.not_valid_after_utc
    assert timedelta(days=89) < issued.expires_at - now() <= timedelta(days=90)
    assert int(issued.serial, 16) == made.serial_number


def test_names_and_extensions_in_the_request_are_not_taken_over(db):
    made, _ = _issue(csr=csr(name="berth", san=["portal.example", "metal-2"]))
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "metal-1"
    assert _extension(made, x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["metal-1"]


@pytest.mark.parametrize(
    ("key", "encipher"),
    [
        (ec.generate_private_key(ec.SECP384R1()), False),
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), True),
    ],
    ids=["P-384", "RSA-2048"],
)
def test_other_strong_keys_are_signed_as_well(db, key, encipher):
    made, _ = _issue(csr=csr(key))
    assert _extension(made, x509.KeyUsage).value.key_encipherment is encipher


@pytest.mark.parametrize(
    "bad",
    [
        csr(ec.generate_private_key(ec.SECP521R1())),
        csr(ec.generate_private_key(ec.SECP256K1())),
        csr(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505 - that is the point
        csr(dsa.generate_private_key(2048)),
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "é" * 100,
        "x" * 20000,
    ],
    ids=["P-521", "secp256k1", "RSA-1024", "DSA", "empty", "no ASN.1", "no ASCII", "too long"],
)
def test_weak_or_broken_requests_are_refused(db, bad):
    with pytest.raises(CsrInvalid):
        _issue(csr=bad)


def test_an_ed25519_key_is_refused(db):
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ed25519.Ed25519PrivateKey.generate(), None)
    )
    with pytest.raises(CsrInvalid):
        _issue(csr=request.public_bytes(serialization.Encoding.PEM).decode())


def test_a_request_for_somebody_elses_key_is_refused(db):
    """The public key of one request under the signature of another: who sends it does not hold the key."""
    mine, theirs = (x509.load_pem_x509_csr(csr(ec.generate_private_key(ec.SECP256R1())).encode()) for _ in range(2))
    point = serialization.PublicFormat.UncompressedPoint
    encoding = serialization.Encoding.X962
    forged = mine.public_bytes(serialization.Encoding.DER).replace(
        mine.public_key().public_bytes(encoding, point), theirs.public_key().public_bytes(encoding, point)
    )
    assert x509.load_der_x509_csr(forged).is_signature_valid is False
    body = base64.encodebytes(forged).decode()
    with pytest.raises(CsrInvalid, match="not signed with its own key"):
        _issue(csr=f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n")


def test_the_private_keys_stand_encrypted_in_the_database(db):
    row = authority()
    assert "PRIVATE KEY" in row.key
    with connection.cursor() as cursor:
        cursor.execute("SELECT key, client_key FROM hosts_authority")
        (stored,) = cursor.fetchall()
    assert "PRIVATE" not in "".join(stored)


def test_the_platforms_client_certificate_is_for_clients_and_fits_its_key(db):
    material = client_material()
    made = x509.load_pem_x509_certificate(material.certificate.encode())
    assert list(_extension(made, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert isinstance(context(TLSMaterial(material.ca, material.certificate, material.key)), ssl.SSLContext)
    assert "PRIVATE" not in repr(material)


def test_the_client_certificate_is_renewed_a_month_before_its_end_and_not_sooner(db):
    before = client_material()
    assert client_material() == before
    Authority.objects.update(client_expires_at=now() + timedelta(days=29))
    after = client_material()
    assert after.ca == before.ca
    assert (after.certificate == before.certificate, after.key == before.key) == (False, False)
    assert Authority.objects.get().client_expires_at - now() > timedelta(days=300)
    assert Event.objects.filter(code="authority.client_renewed").count() == 1
    assert client_material() == after


def test_of_two_who_make_the_authority_the_loser_takes_the_winners(world_committed, monkeypatch):
    together = threading.Barrier(2)
    real = module._new_authority

    def slow():
        made = real()
        together.wait(20)
        return made

    monkeypatch.setattr(module, "_new_authority", slow)
    found = []

    def ask():
        try:
            found.append(authority().certificate)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1] == Authority.objects.get().certificate
