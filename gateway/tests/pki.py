"""A small authority for tests: certificates for names, and clients that look at what is shown to them."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.contract import Certificate

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SEALING_KEY = Fernet.generate_key().decode()


def pem(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@dataclass(frozen=True)
class Issued:
    """``chain``: with the authority's certificate at the end."""

    chain: str
    key: str
    serial: int

    def sealed(self, name: str, *names: str, key: str = SEALING_KEY) -> Certificate:
        return Certificate(name, names, self.chain, Fernet(key).encrypt(self.key.encode()).decode())


class Authority:
    def __init__(self, name: str = "Test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, *names: str, days: float = 90, since: float = 0, key: Key | None = None) -> Issued:
        """Valid from ``since`` days ago for ``days`` days from now."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        return Issued(self.sign(own.public_key(), names, days=days, since=since), pem(own), self._serial)

    def sign(
        self,
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        names: tuple[str, ...],
        *,
        days: float = 90,
        since: float = 0,
    ) -> str:
        now = datetime.now(UTC)
        self._serial = x509.random_serial_number()
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(self._serial)
            .not_valid_before(now - timedelta(days=since, minutes=5))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM).decode() + self.pem


def shown(port: int, name: str | None, alpn: tuple[str, ...] = ()) -> x509.Certificate:
    """The certificate that a server shows to whoever asks for ``name``, trusted or not."""
    with _connected(port, name, alpn) as connection:
        found = connection.getpeercert(binary_form=True)
    if found is None:
        raise AssertionError("no certificate was shown")
    return x509.load_der_x509_certificate(found)


def protocol(port: int, name: str, alpn: tuple[str, ...]) -> str | None:
    with _connected(port, name, alpn) as connection:
        return connection.selected_alpn_protocol()


def _connected(port: int, name: str | None, alpn: tuple[str, ...]) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(plain, server_hostname=name)


def fetched(port: int, name: str, authority: Authority, path: str = "/") -> bytes:
    """What comes back over a connection whose certificate is verified as a browser does. Raises ssl.SSLError."""
    context = ssl.create_default_context(cadata=authority.pem)
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain, server_hostname=name) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
    return found
