"""A certificate authority that lives as long as a test."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apps.hosts.engines.base import TLSMaterial


def pem(key: CertificateIssuerPrivateKeyTypes) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _certificate(name: str, key, issuer, issuer_key, *extensions) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=2))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


class Authority:
    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._cert = _certificate(
            name,
            self._key,
            None,
            self._key,
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage, True),
            (x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False),
        )
        self.pem = self._cert.public_bytes(serialization.Encoding.PEM).decode()

    def _issue(self, name: str, usage: x509.ObjectIdentifier, *names: x509.GeneralName) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName(list(names)), False))
        cert = _certificate(name, key, self._cert.subject, self._key, *extensions)
        return cert.public_bytes(serialization.Encoding.PEM).decode(), pem(key)

    def server(self, ip: str) -> tuple[str, str]:
        return self._issue(ip, ExtendedKeyUsageOID.SERVER_AUTH, x509.IPAddress(ipaddress.ip_address(ip)))

    def client(self, ca: str | None = None) -> TLSMaterial:
        certificate, key = self._issue("berth", ExtendedKeyUsageOID.CLIENT_AUTH)
        return TLSMaterial(ca or self.pem, certificate, key)


@dataclass(frozen=True)
class TokenIssuer:
    """What a registry with token authentication trusts."""

    certificate: str
    key: str
    kid: str


def token_issuer() -> TokenIssuer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    cert = _certificate("berth", key, None, key, (x509.BasicConstraints(ca=True, path_length=None), True))
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # libtrust's key id: 240 bits of the SHA-256, base32, twelve groups of four
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    kid = ":".join(text[at : at + 4] for at in range(0, len(text), 4))
    return TokenIssuer(cert.public_bytes(serialization.Encoding.PEM).decode(), pem(key), kid)
