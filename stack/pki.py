"""Certificates and keys of one environment: two authorities, server and client certificates, the token key.

The registry's servers and the Docker hosts have different authorities, so that no certificate made for one
opens the other. Private keys are files of mode 0600.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = dt.timedelta(days=3650)
# A machine whose clock is a little behind must not refuse what was made a second ago.
_BACKDATED = dt.timedelta(days=1)
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and of its private key, both PEM."""

    cert: Path
    key: Path

    def exists(self) -> bool:
        return self.cert.exists() and self.key.exists()


def write_private(path: Path, data: bytes) -> None:
    """Writes whole or not at all, readable by the owner only from the first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)


def _key_pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        # The registry and Docker read both forms; PKCS8 is the one that every library reads.
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(general)


def _builder(subject: str, issuer: x509.Name, key: _Key) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )


class Authority:
    """A certificate authority in ``directory``; made at its first use, then kept."""

    def __init__(self, directory: Path, name: str) -> None:
        self.pair = Pair(directory / "ca.pem", directory / "ca.key")
        if not self.pair.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            # Two authorities of the same name in one trust store hide each other: the serial tells them apart.
            common = f"Berth {name} {x509.random_serial_number() % 10**8:08d}"
            cert = (
                _builder(common, _name(common), key)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(sign_certificates=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA256())
            )
            write_private(self.pair.key, _key_pem(key))
            self.pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.pair.key} is not an elliptic-curve key")
        self._key = loaded
        self._cert = x509.load_pem_x509_certificate(self.pair.cert.read_bytes())

    def server(self, pair: Pair, names: Sequence[str]) -> Pair:
        """A server certificate for these DNS names and IP addresses; the first one is its common name."""
        return self._issue(pair, names[0], names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, pair: Pair, name: str) -> Pair:
        """A client certificate: whoever holds its key is the platform to every Docker host."""
        return self._issue(pair, name, [], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, pair: Pair, common: str, names: Sequence[str], usage: x509.ObjectIdentifier) -> Pair:
        if pair.exists() and self._still_good(pair, names):
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(common, self._cert.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(_alternatives(names), critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        write_private(pair.key, _key_pem(key))
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return pair

    def _still_good(self, pair: Pair, names: Sequence[str]) -> bool:
        cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
        if cert.issuer != self._cert.subject:
            return False
        if cert.not_valid_after_utc < dt.datetime.now(dt.UTC) + dt.timedelta(days=30):
            return False
        if not names:
            return True
        try:
            held = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return set(held) == set(_alternatives(names))


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def token_pair(pair: Pair) -> Pair:
    """The RSA key that signs registry tokens (RS256) and its self-signed certificate, made once.

    The registry pins the certificate as its ``rootcertbundle``; distribution 2.8, auth/token.
    """
    if pair.exists():
        return pair
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    cert = (
        _builder("Berth registry tokens", _name("Berth registry tokens"), key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(pair.key, _key_pem(key))
    pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    return pair
