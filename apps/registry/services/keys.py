"""The keys that sign tokens for the registry: which one signs, which ones it must trust, and changing them.

The registry (distribution 2.8) finds a key by libtrust's fingerprint of it, and reads their certificates from one file
when it starts. So a new key waits in that file until the registry has it, and an old one stays until its last token has
ended. Each step here is one transaction and may be taken again.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import IntegrityError, transaction

from apps.core import events
from apps.core.clock import now
from apps.core.errors import PlatformError
from apps.registry.models import TokenKey

TOKEN_S = 300
#: The registry takes a token for so much longer than it says (distribution 2.8, token.Leeway), and clocks differ.
LEEWAY_S = 120
_VALID = timedelta(days=3650)
# The registry's clock may be a little behind.
_BACKDATED = timedelta(days=1)


class RegistryUnconfigured(PlatformError):
    code = "registry.unconfigured"


@dataclass(frozen=True, slots=True)
class SigningKey:
    key: rsa.RSAPrivateKey
    kid: str

    @property
    def public(self) -> rsa.RSAPublicKey:
        return self.key.public_key()


def signing_key() -> SigningKey:
    """Raises RegistryUnconfigured."""
    row = TokenKey.objects.filter(status=TokenKey.Status.SIGNING).only("private_key").first()
    return _loaded(row.private_key) if row is not None else _of_file(settings.REGISTRY_TOKEN_KEY)


def loaded(row: TokenKey) -> SigningKey:
    return _loaded(row.private_key)


def trusted_certificates() -> list[str]:
    """PEM texts of the certificates that the registry is to trust now. Raises RegistryUnconfigured."""
    rows = _trusted()
    return [row.certificate for row in rows] or [_certificate(_of_file(settings.REGISTRY_TOKEN_KEY).key)]


def key_set() -> dict[str, list[dict[str, str]]]:
    """The same as a JSON Web Key Set (RFC 7517), for distribution 3.x. Raises RegistryUnconfigured."""
    publics = [x509.load_pem_x509_certificate(row.certificate.encode()).public_key() for row in _trusted()]
    keys = []
    for public in publics or [_of_file(settings.REGISTRY_TOKEN_KEY).public]:
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            about = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": key_id(public)}
            keys.append({**about, "n": _base64url(numbers.n), "e": _base64url(numbers.e)})
    return {"keys": keys}


def key_prepare() -> TokenKey:
    """The key that is to sign next, made where there is none; the file's key becomes a row.

    It signs nothing before ``key_switch``. Raises RegistryUnconfigured.
    """
    first = not TokenKey.objects.filter(status=TokenKey.Status.SIGNING).exists()
    try:
        with transaction.atomic():
            if first:
                of_file = _of_file(settings.REGISTRY_TOKEN_KEY)
                _row(of_file.key, status=TokenKey.Status.SIGNING)
            found = TokenKey.objects.filter(status=TokenKey.Status.PREPARED).first()
            if found is not None:
                return found
            made = _row(rsa.generate_private_key(public_exponent=65537, key_size=2048), TokenKey.Status.PREPARED)
            events.record("registry.key_prepared", f"The token key {made.kid[:9]} was made.")
            return made
    except IntegrityError:
        # Somebody else was faster, by the constraints on the rows.
        return TokenKey.objects.get(status=TokenKey.Status.PREPARED)


@transaction.atomic
def key_switch(kid: str) -> bool:
    """From now on this prepared key signs. The registry must trust it by then. False where it is not prepared (any
    more): what somebody else prepared meanwhile, the registry was not asked about.
    """
    prepared = TokenKey.objects.select_for_update().filter(status=TokenKey.Status.PREPARED, kid=kid).first()
    if prepared is None:
        return False
    at = now()
    rows = TokenKey.objects
    rows.filter(status=TokenKey.Status.SIGNING).update(status=TokenKey.Status.RETIRING, retired_at=at)
    rows.filter(pk=prepared.pk, status=TokenKey.Status.PREPARED).update(status=TokenKey.Status.SIGNING, signing_at=at)
    events.record("registry.key_switched", f"The token key {prepared.kid[:9]} signs now.")
    return True


def retiring_until() -> datetime | None:
    """When the last token of a key that signs no more has ended; None where there is no such key."""
    retired = TokenKey.objects.filter(status=TokenKey.Status.RETIRING).order_by("-retired_at").first()
    if retired is None or retired.retired_at is None:
        return None
    return retired.retired_at + timedelta(seconds=TOKEN_S + LEEWAY_S)


@transaction.atomic
def keys_remove() -> int:
    """Keys that signed no token which is still good are trusted no more, and their private halves deleted."""
    gone = now() - timedelta(seconds=TOKEN_S + LEEWAY_S)
    rows = TokenKey.objects.filter(status=TokenKey.Status.RETIRING, retired_at__lte=gone)
    done = rows.update(status=TokenKey.Status.REMOVED, private_key="")
    if done:
        events.record("registry.key_removed", f"{done} old token keys were removed.")
    return done


def key_id(public: rsa.RSAPublicKey) -> str:
    """libtrust's key id: the first 240 bits of SHA-256 in base32, in twelve groups of four."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def _trusted() -> list[TokenKey]:
    return list(TokenKey.objects.exclude(status=TokenKey.Status.REMOVED).order_by("pk"))


def _row(key: rsa.RSAPrivateKey, status: str) -> TokenKey:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    kid = key_id(key.public_key())
    return TokenKey.objects.create(kid=kid, private_key=pem, certificate=_certificate(key), status=status)


def _certificate(key: rsa.RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Berth registry tokens {secrets.token_hex(4)}")])
    at = now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _BACKDATED)
        .not_valid_after(at + _VALID)
        # It signs tokens and no certificates: a chain in a token's header can't end in it.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@lru_cache(maxsize=4)
def _of_file(path: str) -> SigningKey:
    if not path:
        raise RegistryUnconfigured("BERTH_REGISTRY_TOKEN_KEY names no key: registry tokens can't be signed.")
    try:
        pem = Path(path).read_text()
    except OSError as error:
        raise RegistryUnconfigured(f"BERTH_REGISTRY_TOKEN_KEY can't be read: {error.strerror}.") from error
    return _loaded(pem)


@lru_cache(maxsize=8)
def _loaded(pem: str) -> SigningKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise RegistryUnconfigured("The registry's token key is not an RSA key.")
    return SigningKey(key, key_id(key.public_key()))


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
