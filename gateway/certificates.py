"""The certificates that the gateway shows: read from ZooKeeper's payloads, checked, kept on disk, given to HAProxy.

A certificate that OpenSSL would not take must not get into HAProxy's list: there it would keep every later
configuration from being verified, and so all apps from changing. Hence the last check is to load it as HAProxy does.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gateway.contract import MOST_BYTES, Certificate, ContractError, certificate_id

DIRECTORY = "certificates"
FALLBACK_DAYS = 3650
#: Nobody's name (RFC 2606): whoever sees it in a browser's warning sees that there is no certificate yet.
FALLBACK_NAME = "no-certificate.invalid"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """``pem``: the chain and the private key, as HAProxy reads them."""

    names: tuple[str, ...]
    not_before: datetime
    raw: bytes = field(repr=False)
    pem: str = field(repr=False)


class Certificates:
    """What is wanted, by id. ``revision`` grows with every change."""

    def __init__(self, directory: Path, keys: Iterable[str]) -> None:
        """Reads what the disk holds. Without keys there are none, whatever comes. Raises OSError."""
        self._directory = directory / DIRECTORY
        self._directory.mkdir(mode=0o700, exist_ok=True)
        fernets = [Fernet(key) for key in keys]
        self._opener = MultiFernet(fernets) if fernets else None
        self._held: dict[str, Held] = {}
        self._unsaved: set[str] = set()
        self.revision = 0
        #: Id -> what is wrong with what came last; what came before it is shown on.
        self.faults: dict[str, str] = {}
        found = {path.stem: path.read_bytes() for path in sorted(self._directory.glob("*.json"))}
        self.read(found)
        self._unsaved.clear()

    def __len__(self) -> int:
        return len(self._held)

    def read(self, payloads: Mapping[str, bytes | None], listed: frozenset[str] | None = None) -> None:
        """None: it is gone. ``listed``: all that there are."""
        if self._opener is None:
            return
        for name, raw in payloads.items():
            held = self._held.get(name)
            if raw is None:
                self._drop(name)
            elif held is None or held.raw != raw:
                self._take(name, raw, self._opener)
        if listed is not None:
            for name in self._held.keys() - listed:
                self._drop(name)

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """File -> names. Of two certificates for one name the one that was made last is shown."""
        return {f"{DIRECTORY}/{file}": names for file, (names, _) in self._files().items()}

    def store(self) -> None:
        """Writes what changed, for HAProxy and for a start without ZooKeeper. Raises OSError.

        It does not wait for the disk: what a machine's crash takes of it comes again from ZooKeeper, and nothing that
        is acknowledged leans on it.
        """
        for name in sorted(self._unsaved):
            path = self._directory / f"{certificate_id(name)}.json"
            if name in self._held:
                _write(path, self._held[name].raw)
            else:
                path.unlink(missing_ok=True)
            self._unsaved.discard(name)
        for file, (_, pem) in self._files().items():
            path = self._directory / file
            if not path.exists() or path.read_bytes() != pem.encode():
                _write(path, pem.encode())

    def tidy(self) -> None:
        """Removes the files of what is not wanted any more; once HAProxy has dropped it."""
        wanted = self._files()
        for path in self._directory.glob("*.pem"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def _files(self) -> dict[str, tuple[tuple[str, ...], str]]:
        shown: dict[str, str] = {}
        for name, held in sorted(self._held.items(), key=lambda one: (-one[1].not_before.timestamp(), one[0])):
            for domain in held.names:
                shown.setdefault(domain, name)
        found: dict[str, tuple[tuple[str, ...], str]] = {}
        for name, held in sorted(self._held.items()):
            names = tuple(domain for domain in sorted(held.names) if shown[domain] == name)
            if names:
                digest = hashlib.sha256("\n".join((held.pem, *names)).encode()).hexdigest()[:20]
                found[f"{name}-{digest}.pem"] = names, held.pem
        return found

    def _take(self, name: str, raw: bytes, opener: MultiFernet) -> None:
        try:
            held = self._parse(name, raw, opener)
        except (ContractError, ValueError, OSError) as error:
            if self.faults.get(name) != str(error):
                _log.warning("certificate.broken", certificate=name[:80], error=str(error)[:300])
            self.faults[name] = str(error)
            return
        self.faults.pop(name, None)
        self._held[name] = held
        self._unsaved.add(name)
        self.revision += 1

    def _drop(self, name: str) -> None:
        self.faults.pop(name, None)
        if self._held.pop(name, None) is not None:
            self._unsaved.add(name)
            self.revision += 1

    def _parse(self, name: str, raw: bytes, opener: MultiFernet) -> Held:
        """Raises ContractError, ValueError, OSError (ssl.SSLError)."""
        sent = Certificate.from_json(raw)
        if sent.id != name:
            raise ContractError(f"the certificate {sent.id!r} under {name!r}")
        chain = x509.load_pem_x509_certificates(sent.chain.encode())
        try:
            key = load_pem_private_key(opener.decrypt(sent.sealed_key.encode()), None)
        except InvalidToken:
            raise ContractError("BERTH_GATEWAY_CERTIFICATE_KEY does not open its key") from None
        public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if key.public_key().public_bytes(*public) != chain[0].public_key().public_bytes(*public):
            raise ContractError("the key is another certificate's")
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        pem = "".join([*(one.public_bytes(Encoding.PEM).decode() for one in chain), secret])
        if len(pem) > MOST_BYTES:
            raise ContractError(f"{len(pem)} bytes: HAProxy takes {MOST_BYTES} at most")
        in_it = names_in(chain[0])
        if others := [name for name in sent.names if name not in in_it and f"*.{name.partition('.')[2]}" not in in_it]:
            raise ContractError(f"it is not for {others[:3]}")
        self._try(pem)
        return Held(sent.names, chain[0].not_valid_before_utc, raw, pem)

    def _try(self, pem: str) -> None:
        path = self._directory / "tried.new"
        _write(path, pem.encode())
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        finally:
            path.unlink(missing_ok=True)


def names_in(certificate: x509.Certificate) -> frozenset[str]:
    """The DNS names, in lower case, and those that its wildcards stand for only as the wildcard itself."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in found.get_values_for_type(x509.DNSName))


def fallback(path: Path) -> None:
    """Makes the certificate that is shown where there is no other, unless it is there. Raises OSError."""
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FALLBACK_NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=FALLBACK_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(FALLBACK_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(path, made.public_bytes(Encoding.PEM) + secret)


def _write(path: Path, content: bytes) -> None:
    """Atomically, and readable by nobody else at any moment."""
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
