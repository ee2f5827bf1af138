"""Bearer tokens for the registry, as the distribution specification wants them.

Source: distribution/distribution, docs/content/spec/auth/{token,jwt,scope}.md. The registry (2.8) finds the key by
``kid``, which is libtrust's fingerprint of the public key.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.conf import settings

from apps.core.clock import now
from apps.core.errors import PlatformError
from apps.registry import selectors
from apps.registry.models import Repository
from apps.tenants.models import User
from apps.tenants.permissions import Action, allows

TOKEN_S = 300
#: The registry takes a token for so much longer than it says (distribution 2.8, token.Leeway), and clocks differ.
LEEWAY_S = 120
#: How exactly it is noted until when tokens are about: a write a minute, however often people ask.
NOTED_S = 60
MAX_REPOSITORIES = 20
ALL_ACTIONS = frozenset({"pull", "push", "delete"})
_SCOPE = re.compile(r"repository(?:\([a-z]+\))?:([a-z0-9]+(?:[._/-][a-z0-9]+)*):([a-z,*]+)")


class RegistryUnconfigured(PlatformError):
    code = "registry.unconfigured"


@dataclass(frozen=True, slots=True)
class Access:
    """Actions on one repository, out of pull, push and delete."""

    name: str
    actions: tuple[str, ...]


def parse_scopes(scopes: Iterable[str]) -> list[Access]:
    """The repositories asked for, each once and at most MAX_REPOSITORIES: a push with mounts asks for two or three.

    What is not a repository scope is left out: nobody here may have it.
    """
    asked: dict[str, set[str]] = {}
    for scope in " ".join(scopes).split():
        if match := _SCOPE.fullmatch(scope):
            if match[1] not in asked and len(asked) >= MAX_REPOSITORIES:
                break
            actions = set(match[2].split(","))
            wanted = ALL_ACTIONS if "*" in actions else actions & ALL_ACTIONS
            asked.setdefault(match[1], set()).update(wanted)
    return [Access(name, tuple(sorted(actions))) for name, actions in asked.items()]


_NEEDS = {"pull": Action.PULL, "push": Action.PUSH, "delete": Action.MANAGE}


def granted_to(user: User, asked: list[Access]) -> list[Access]:
    """What of it the user may have: less than asked is the specification's way to say no.

    Nothing of a repository that is being deleted: its name must not be given away while tokens for it are about.
    """
    granted = []
    for access in asked:
        repository = selectors.repository_named(access.name)
        if repository is None:
            continue
        actions = tuple(action for action in access.actions if allows(user, _NEEDS[action], repository))
        if actions and _noted(repository):
            granted.append(Access(access.name, actions))
    return granted


def _noted(repository: Repository) -> bool:
    """Whether it stands in the row that a token is about for so long; False where the repository is being deleted."""
    if repository.deleting_at is not None:
        return False
    needed = now() + timedelta(seconds=TOKEN_S + LEEWAY_S)
    if repository.tokens_until is not None and repository.tokens_until >= needed:
        return True
    rows = Repository.objects.filter(pk=repository.pk, deleting_at=None)
    return bool(rows.update(tokens_until=needed + timedelta(seconds=NOTED_S)))


@dataclass(frozen=True, slots=True)
class Issued:
    token: str
    expires_in: int
    issued_at: str


def token_issue(*, subject: str, access: list[Access]) -> Issued:
    """Sign a token of five minutes. Raises RegistryUnconfigured where no key is set."""
    key, kid = _signing_key(settings.REGISTRY_TOKEN_KEY)
    issued = now().replace(microsecond=0)
    claims = {
        "iss": settings.REGISTRY_ISSUER,
        "sub": subject,
        "aud": settings.REGISTRY_SERVICE,
        "exp": issued + timedelta(seconds=TOKEN_S),
        # The registry's clock may be a little behind ours.
        "nbf": issued - timedelta(seconds=10),
        "iat": issued,
        "jti": secrets.token_urlsafe(16),
        "access": [{"type": "repository", "name": one.name, "actions": list(one.actions)} for one in access],
    }
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid})
    return Issued(token, TOKEN_S, issued.isoformat().replace("+00:00", "Z"))


def purge_token(repository: str) -> str:
    """The platform's own credential for reading and deleting what one repository holds."""
    return token_issue(subject="", access=[Access(repository, ("delete", "pull"))]).token


def pull_token(repository: str) -> str:
    """The platform's own credential for one pull of one repository."""
    return token_issue(subject="", access=[Access(repository, ("pull",))]).token


@lru_cache(maxsize=4)
def _signing_key(path: str) -> tuple[RSAPrivateKey, str]:
    if not path:
        raise RegistryUnconfigured("BERTH_REGISTRY_TOKEN_KEY names no key: registry tokens can't be signed.")
    key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise RegistryUnconfigured("BERTH_REGISTRY_TOKEN_KEY is not an RSA key.")
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, key_id(der)


def key_id(public_der: bytes) -> str:
    """libtrust's key id: the first 240 bits of SHA-256 in base32, in twelve groups of four."""
    text = base64.b32encode(hashlib.sha256(public_der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))
