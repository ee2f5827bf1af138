"""The platform's own certificate authority for hosts: X.509 as RFC 5280 wants it, keys encrypted at rest.

The authority is made when it is first needed. Names in a request are never trusted: of a CSR only its public key is
taken, and what the certificate says comes from the host's row.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Invalid
from apps.hosts.models import Authority

HOSTS = "hosts"
CA_LIFE = timedelta(days=3653)
CLIENT_LIFE = timedelta(days=365)
SERVER_LIFE = timedelta(days=90)
#: Certificates with less left are renewed.
RENEW_BEFORE = timedelta(days=30)
#: A host's clock may be behind ours, and a certificate that is not valid yet is refused.
BACKDATED = timedelta(hours=1)
MAX_CSR = 16384
_MAX_RSA_BITS = 8192

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CsrInvalid(Invalid):
    code = "hosts.csr_invalid"


@dataclass(frozen=True, slots=True)
class Material:
    """PEM texts with which the platform reaches joined hosts."""

    ca: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A server certificate: PEM, its serial number in hexadecimal, and its end."""

    certificate: str
    serial: str
    expires_at: datetime


def authority() -> Authority:
    """The authority for hosts, made by the first who asks; of two at a time the loser reads the winner's."""
    found = Authority.objects.filter(name=HOSTS).first()
    if found is not None:
        return found
    made, created = Authority.objects.get_or_create(name=HOSTS, defaults=_new_authority())
    if created:
        events.record("authority.created", "The platform's authority for hosts was made.")
    return made


def client_material() -> Material:
    """What the platform shows to the engines of joined hosts, renewed when it is due."""
    row = authority()
    if row.client_expires_at - now() < RENEW_BEFORE:
        row = _client_renew(row)
    return Material(row.certificate, row.client_certificate, row.client_key)


def public_key_of(csr: str) -> PublicKey:
    """The key that the request proves to hold. Raises CsrInvalid; names and extensions in it are not looked at."""
    if len(csr) > MAX_CSR:
        raise CsrInvalid("The certificate request is too long.", field="csr")
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CsrInvalid("This is no certificate request in PEM (PKCS #10).", field="csr") from None
    known_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    # Not any length: to check a signature of a key without bounds is work without bounds.
    strong_rsa = isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= _MAX_RSA_BITS
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or not (known_curve or strong_rsa):
        raise CsrInvalid("The key must be EC (P-256 or P-384), or RSA of 2048 bits or more.", field="csr")
    try:
        proven = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        proven = False
    if not proven:
        raise CsrInvalid("The certificate request is not signed with its own key.", field="csr")
    return key


def key_digest(key: PublicKey) -> str:
    """SHA-256, in hexadecimal, of the key as certificates hold it (RFC 5280, 4.1: SubjectPublicKeyInfo)."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def server_certificate(*, csr: str, name: str, address: str) -> Issued:
    """A certificate for a host's engine, for the name and the address that the platform knows it by.

    Raises CsrInvalid. It authenticates servers only: with it a host can't act as the platform at other hosts.
    """
    key = public_key_of(csr)
    row = authority()
    ca = x509.load_pem_x509_certificate(row.certificate.encode())
    until = min(now() + SERVER_LIFE, row.expires_at)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName(name)])
    made = (
        _leaf(ca, name, key, until, ExtendedKeyUsageOID.SERVER_AUTH)
        .add_extension(names, critical=False)
        .sign(_private(row.key), hashes.SHA256())
    )
    return Issued(_pem(made), f"{made.serial_number:x}", made.not_valid_after_utc)


def _new_authority() -> dict[str, object]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Berth hosts authority")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    ca = (
        _builder(name, name, key.public_key(), now() + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    client, client_key = _client(ca, key)
    return {
        "certificate": _pem(ca),
        "key": _private_pem(key),
        "expires_at": ca.not_valid_after_utc,
        "client_certificate": _pem(client),
        "client_key": client_key,
        "client_expires_at": client.not_valid_after_utc,
    }


def _client(ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, str]:
    """A new pair for the platform: the certificate, and the key's PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now() + CLIENT_LIFE, ca.not_valid_after_utc)
    made = _leaf(ca, "berth", key.public_key(), until, ExtendedKeyUsageOID.CLIENT_AUTH).sign(ca_key, hashes.SHA256())
    return made, _private_pem(key)


def _client_renew(row: Authority) -> Authority:
    """Compare-and-swap: of two who renew at a time the loser takes the winner's."""
    ca = x509.load_pem_x509_certificate(row.certificate.encode())
    made, key = _client(ca, _private(row.key))
    rows = Authority.objects.filter(pk=row.pk, client_certificate=row.client_certificate)
    if rows.update(client_certificate=_pem(made), client_key=key, client_expires_at=made.not_valid_after_utc):
        events.record("authority.client_renewed", "The platform's client certificate for hosts was renewed.")
    row.refresh_from_db()
    return row


def _leaf(
    ca: x509.Certificate, name: str, key: PublicKey, until: datetime, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, ca.subject, key, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(encipher=isinstance(key, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: PublicKey, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - BACKDATED)
        .not_valid_after(until)
    )


def _usage(*, certificates: bool = False, encipher: bool = False) -> x509.KeyUsage:
    """RFC 5280, 4.2.1.3: an authority signs certificates and nothing else, a leaf the handshake (RSA keys also
    encipher, for suites older than TLS 1.3).
    """
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Without a pass phrase: the column that it goes into is encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not EC")
    return key
