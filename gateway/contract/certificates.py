"""A certificate on its way to the gateways: its names, its chain, and its key, encrypted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from gateway.contract.words import (
    FORMAT,
    ContractError,
    certificate_id,
    host_name,
    json_list,
    json_object,
    json_text,
    matched,
    wildcard_name,
)

MOST_NAMES = 100
#: Chain and key together, as HAProxy gets them in one command of 16 KB at most.
MOST_BYTES = 12_000
_CHAIN = re.compile(
    r"(?:-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,76}\n){1,200}-----END CERTIFICATE-----\n){1,10}"
)
# Fernet's tokens are base64 in the alphabet for URLs.
_SEALED = re.compile(r"[A-Za-z0-9_-]{100,16000}={0,2}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is shown to those who ask for one of ``names``: each a host name or a wildcard, and only for these.

    ``chain``: PEM, the certificate itself first. ``sealed_key``: its private key as PEM (PKCS 8), encrypted with
    Fernet by a key that platform and gateways share; ZooKeeper holds nothing that could be used by itself.
    """

    id: str
    names: tuple[str, ...]
    chain: str
    sealed_key: str = field(repr=False)

    def to_json(self) -> bytes:
        body = {
            "format": FORMAT,
            "certificate": self.id,
            "names": list(self.names),
            "chain": self.chain,
            "key": self.sealed_key,
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Certificate:
        body = json_object(raw)
        names = tuple(served_name(str(one)) for one in json_list(body.get("names"), "names", MOST_NAMES))
        if not names or len(set(names)) < len(names):
            raise ContractError("a certificate has names, each once")
        chain = json_text(body, "chain")
        if len(chain) > MOST_BYTES:
            raise ContractError(f"a chain of more than {MOST_BYTES} bytes")
        return cls(
            certificate_id(json_text(body, "certificate")),
            names,
            matched(_CHAIN, "a chain of certificates", chain),
            matched(_SEALED, "an encrypted key", json_text(body, "key")),
        )


def served_name(text: str) -> str:
    """A host name, or a wildcard for one label."""
    return wildcard_name(text) if text.startswith("*") else host_name(text)
