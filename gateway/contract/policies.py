"""What an app's owner may ask of the gateway for it. Each value is parsed into what no grammar of HAProxy's minds."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from gateway.contract.words import (
    ContractError,
    container_id,
    json_count,
    json_flag,
    json_list,
    json_mapping,
    json_text,
)

MOST_NETWORKS = 500
MOST_USERS = 50
MOST_TESTERS = 500
#: The largest value of each number; 0 is "not asked for".
LIMITS: Mapping[str, int] = {
    "hold_ms": 60_000,
    "app_rate": 1_000_000,
    "client_rate": 100_000,
    "max_body_bytes": 1 << 40,
    "max_header_bytes": 64 << 10,
    "answer_timeout_ms": 3_600_000,
    "hsts_seconds": 63_072_000,
}

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SignIn:
    """Basic authentication (RFC 7617). ``salt``: 16 to 64 bytes in base64. ``digests``: of each person the
    HMAC-SHA-256, in hexadecimal digits, keyed with the salt, of the whole value of the Authorization header.
    """

    salt: str
    digests: tuple[str, ...]

    @classmethod
    def from_body(cls, found: object) -> SignIn:
        body = json_mapping(found, "sign-in")
        salt = json_text(body, "salt")
        try:
            raw = base64.b64decode(salt, validate=True)
        except (binascii.Error, ValueError):
            raise ContractError("a salt is base64") from None
        if not 16 <= len(raw) <= 64 or base64.b64encode(raw).decode() != salt:
            raise ContractError("a salt has 16 to 64 bytes")
        digests = tuple(str(one) for one in json_list(body.get("digests"), "digests", MOST_USERS))
        if not digests or not all(_DIGEST.fullmatch(one) for one in digests):
            raise ContractError("not the digests of people")
        return cls(salt, digests)


@dataclass(frozen=True, slots=True)
class Policy:
    """All off by default.

    ``asleep``: scaled to no instances on purpose. ``maintenance``: a page instead of the app. ``hold_ms``: so long a
    request waits for an instance. ``deny`` and ``allow``: networks (CIDR); whoever is in ``deny``, or not in ``allow``
    where there is one, gets 403. ``app_rate`` and ``client_rate``: requests a second, of all and of each address;
    beyond them 429. ``max_body_bytes``: 413 beyond it, and 411 where a client does not say how much it sends.
    ``max_header_bytes``: 431. ``answer_timeout_ms``: so long an instance may take to begin its answer. ``https_only``:
    308. ``hsts_seconds``: for Strict-Transport-Security (RFC 6797). ``testers``: containers that answer whoever asks
    for the canary, by header or cookie.
    """

    asleep: bool = False
    maintenance: bool = False
    https_only: bool = False
    hold_ms: int = 0
    app_rate: int = 0
    client_rate: int = 0
    max_body_bytes: int = 0
    max_header_bytes: int = 0
    answer_timeout_ms: int = 0
    hsts_seconds: int = 0
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    testers: tuple[str, ...] = ()
    sign_in: SignIn | None = None

    def to_body(self) -> dict[str, object]:
        """Without what is as by default: an app that asks for nothing is the same text whatever is added here."""
        body: dict[str, object] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default:
                continue
            if isinstance(value, SignIn):
                value = {"salt": value.salt, "digests": list(value.digests)}
            body[one.name] = list(value) if isinstance(value, tuple) else value
        return body

    @classmethod
    def from_body(cls, found: object) -> Policy:
        """What it does not know it passes over. Raises ContractError."""
        body = json_mapping(found, "a policy")
        numbers = {name: json_count(body.get(name, 0), name) for name in LIMITS}
        for name, value in numbers.items():
            if value > LIMITS[name]:
                raise ContractError(f"{name}: at most {LIMITS[name]}")
        return cls(
            asleep=json_flag(body, "asleep"),
            maintenance=json_flag(body, "maintenance"),
            https_only=json_flag(body, "https_only"),
            deny=_networks(body, "deny"),
            allow=_networks(body, "allow"),
            testers=tuple(
                container_id(str(one)) for one in json_list(body.get("testers", []), "testers", MOST_TESTERS)
            ),
            sign_in=SignIn.from_body(body["sign_in"]) if "sign_in" in body else None,
            **numbers,
        )


def network(text: str) -> str:
    """A network of IPv4 or IPv6 in CIDR form; an address alone is a network of one. Raises ContractError."""
    try:
        if "%" in text:
            raise ValueError
        found = ipaddress.ip_network(text)
    except ValueError:
        raise ContractError(f"not a network: {text[:80]!r}") from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96")):
        raise ContractError(f"an IPv4 network is written as one: {text[:80]!r}")
    return str(found)


def _networks(body: Mapping[str, object], key: str) -> tuple[str, ...]:
    return tuple(network(str(one)) for one in json_list(body.get(key, []), key, MOST_NETWORKS))
