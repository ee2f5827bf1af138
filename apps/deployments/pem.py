"""Certificates and private keys as people send them: read, checked, and written anew. Nothing of the text is kept.

Only OpenSSL's own checks tell what HAProxy takes; what is refused here is what it or a browser would refuse later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from apps.core.clock import now
from apps.core.errors import Invalid
from gateway.contract import MOST_BYTES, MOST_NAMES, ContractError, served_name

MOST_TEXT = 64_000
MOST_CHAIN = 10
RSA_BITS = (2048, 4096)
CURVES = (ec.SECP256R1, ec.SECP384R1)


class CertificateInvalid(Invalid):
    """``extra["problem"]`` says which check it did not pass."""

    code = "certificates.invalid"


@dataclass(frozen=True, slots=True)
class Bundle:
    """``names``: DNS names that it says it is for, in lower case. ``chain`` and ``key``: PEM (PKCS 8)."""

    names: frozenset[str]
    chain: str
    key: str = field(repr=False)
    not_before: datetime
    not_after: datetime
    issuer: str
    fingerprint: str


def bundle_read(chain: str, key: str, *, at: datetime | None = None) -> Bundle:
    """Raises CertificateInvalid."""
    if len(chain) > MOST_TEXT or len(key) > MOST_TEXT:
        raise _refused("size", f"A certificate and a key are at most {MOST_TEXT} characters of text.")
    certificates = _chain(chain)
    leaf, private = certificates[0], _key(key)
    _matches(leaf, private)
    _times(leaf, at or now())
    names = _names(leaf)
    text = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    if len(text) + len(secret) > MOST_BYTES:
        raise _refused("size", f"Certificate, chain and key are more than {MOST_BYTES} bytes together.")
    return Bundle(
        names,
        text,
        secret,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        leaf.issuer.rfc4514_string()[:200],
        leaf.fingerprint(hashes.SHA256()).hex(),
    )


def names_served(of: Iterable[str], held: Iterable[str]) -> list[str]:
    """Those of the names that are held for which a certificate with the names ``of`` is good, itself or a wildcard."""
    given, mine = set(of), set(held)
    # A name below a wildcard that is held is held as well, and may have a certificate of its own.
    named = {name for name in given if _above(name) in mine}
    return sorted(named.union(name for name in mine if name in given or _above(name) in given))[:MOST_NAMES]


def _above(name: str) -> str:
    return f"*.{name.partition('.')[2]}" if not name.startswith("*.") else name


def _refused(problem: str, words: str) -> CertificateInvalid:
    return CertificateInvalid(words, problem=problem)


def _chain(text: str) -> list[x509.Certificate]:
    """The certificate first, each signed by the next; an authority's own at the end is left out: clients have it."""
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise _refused("chain", "This is no certificate in PEM, with its chain behind it.") from None
    if len(found) > MOST_CHAIN:
        raise _refused("chain", f"A chain has at most {MOST_CHAIN} certificates.")
    for one, above in pairwise(found):
        try:
            one.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise _refused(
                "chain", "The chain is not in order: each certificate must be signed by the one behind it."
            ) from None
    for one in found:
        if isinstance(one.signature_hash_algorithm, (hashes.MD5, hashes.SHA1)) and one.issuer != one.subject:
            raise _refused("signature", "It is signed with MD5 or SHA-1, which no client trusts.")
    if len(found) > 1 and found[-1].issuer == found[-1].subject:
        found.pop()
    return found


def _key(text: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        found = load_pem_private_key(text.encode(), None)
    except TypeError:
        raise _refused("key", "The key is encrypted with a password. Send it without one, over TLS.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _refused("key", "This is no private key in PEM.") from None
    if isinstance(found, rsa.RSAPrivateKey) and RSA_BITS[0] <= found.key_size <= RSA_BITS[1]:
        return found
    if isinstance(found, ec.EllipticCurvePrivateKey) and isinstance(found.curve, CURVES):
        return found
    raise _refused("key", "The key must be RSA of 2048 to 4096 bits, or of the curve P-256 or P-384.")


def _matches(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise _refused("key_of_another", "The key is not this certificate's.")


def _times(leaf: x509.Certificate, at: datetime) -> None:
    if leaf.not_valid_after_utc <= at:
        raise _refused("expired", f"It has expired, on {leaf.not_valid_after_utc:%Y-%m-%d}.")
    if leaf.not_valid_before_utc > at:
        raise _refused("not_yet", f"It is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC.")


def _names(leaf: x509.Certificate) -> frozenset[str]:
    """What can be served; other names in it (of mail, of addresses) are nobody's business here."""
    try:
        said = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        said = None
    except ValueError:
        raise _refused("names", "Its names can't be read.") from None
    found = set()
    for name in said.get_values_for_type(x509.DNSName) if said is not None else []:
        try:
            found.add(served_name(name))
        except ContractError:
            continue
    if not found:
        raise _refused("names", "It is for no host name (subjectAltName).")
    return frozenset(found)
