"""Bearer tokens for the registry, as the distribution specification wants them.

Source: distribution/distribution, docs/content/spec/auth/{token,jwt,scope}.md. The registry (2.8) finds the key by
``kid``, which is libtrust's fingerprint of the public key.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import jwt
from django.conf import settings
from django.contrib.auth.models import AnonymousUser

from apps.core.clock import now
from apps.core.errors import Denied
from apps.registry import selectors
from apps.registry.models import Repository, Robot
from apps.registry.services.keys import LEEWAY_S, TOKEN_S, RegistryUnconfigured, SigningKey, signing_key
from apps.registry.services.quota import storage_refusal
from apps.tenants.models import User
from apps.tenants.permissions import Action, allows_images

__all__ = ["LEEWAY_S", "TOKEN_S", "RegistryUnconfigured"]
#: How exactly it is noted until when tokens are about: a write a minute, however often people ask.
NOTED_S = 60
MAX_REPOSITORIES = 20
#: Of one request so many scopes are looked at, of so many characters: anybody may ask, and _SCOPE takes time with the
#: square of the length, in which the process answers nobody. Ours hold a host name, 40 characters and a few words.
MAX_SCOPES, MAX_SCOPE = 100, 400
ALL_ACTIONS = frozenset({"pull", "push", "delete"})
_NAME = r"[a-z0-9]+(?:[._/-][a-z0-9]+)*"
# resourcescope of docs/content/spec/auth/scope.md: the class is optional, and a name may begin with host:port.
_SCOPE = re.compile(
    rf"repository(?:\(([a-z0-9]+)\))?:(?:([A-Za-z0-9.-]*(?:\.[A-Za-z0-9.-]+|:[0-9]{{1,5}}|(?<=localhost)))/)?"
    rf"({_NAME}):([a-z,*]+)"
)
#: A person, a robot, or somebody who did not sign in.
Who = User | AnonymousUser | Robot


class PushRefused(Denied):
    """The asker may push, but not now: the sentence is for their client to show."""

    code = "registry.push_refused"


@dataclass(frozen=True, slots=True)
class Access:
    """Actions on one repository, out of pull, push and delete. ``kind`` is its class, as "plugin"; mostly empty."""

    name: str
    actions: tuple[str, ...]
    kind: str = ""

    def claim(self) -> dict[str, object]:
        kind = {"class": self.kind} if self.kind else {}
        return {"type": "repository", **kind, "name": self.name, "actions": list(self.actions)}


@dataclass(frozen=True, slots=True)
class Asked:
    """``pushes`` names the repositories for which nothing but a push was meant: see ``granted``."""

    access: list[Access]
    pushes: frozenset[str] = field(default_factory=frozenset)


def parse_scopes(scopes: Iterable[str]) -> list[Access]:
    """The repositories asked for, each once and at most MAX_REPOSITORIES: a push with mounts asks for two or three.

    What is not a repository scope is left out: nobody here may have it. A name that begins with a host is one of ours
    if the host is our registry, which itself asks for the name alone.
    """
    return asked_for(scopes).access


def asked_for(scopes: Iterable[str]) -> Asked:
    """``parse_scopes``, with what was meant by it."""
    asked: dict[tuple[str, str], set[str]] = {}
    pushes: set[str] = set()
    for scope in " ".join(scopes).split()[:MAX_SCOPES]:
        match = _SCOPE.fullmatch(scope) if len(scope) <= MAX_SCOPE else None
        if match is None or (match[2] and match[2] not in _own_hosts()):
            continue
        key = (match[3], match[1] or "")
        if key not in asked and len(asked) >= MAX_REPOSITORIES:
            break
        actions = set(match[4].split(","))
        # Who deletes asks for "*" (skopeo) or "delete": that always works, also where a push is refused.
        if "push" in actions and not actions & {"*", "delete"}:
            pushes.add(match[3])
        wanted = ALL_ACTIONS if "*" in actions else actions & ALL_ACTIONS
        asked.setdefault(key, set()).update(wanted)
    access = [Access(name, tuple(sorted(actions)), kind) for (name, kind), actions in asked.items()]
    return Asked(access, frozenset(pushes))


def _own_hosts() -> set[str]:
    return {settings.REGISTRY_PUBLIC, settings.REGISTRY_FOR_HOSTS}


_NEEDS = {"pull": Action.PULL, "push": Action.PUSH, "delete": Action.MANAGE}


def push_refusal(repository: Repository) -> str | None:
    """Why nothing may be pushed to it now, in a sentence for docker to show. The one place that is asked.

    Pulls and deletes go on whatever it says.
    """
    return storage_refusal(repository)


def granted(who: Who, asked: Asked) -> list[Access]:
    """What of it they may have. Raises PushRefused where they came to push, may, and can't for now."""
    access = []
    for one in granted_to(who, asked.access):
        repository = selectors.repository_named(one.name)
        refusal = push_refusal(repository) if repository is not None and "push" in one.actions else None
        if refusal is None:
            access.append(one)
        elif one.name in asked.pushes:
            raise PushRefused(refusal)
        elif rest := tuple(action for action in one.actions if action != "push"):
            access.append(Access(one.name, rest, one.kind))
    return access


def granted_to(who: Who, asked: list[Access]) -> list[Access]:
    """What of it they may have: less than asked is the specification's way to say no.

    Nothing of a repository that is being deleted: its name must not be given away while tokens for it are about.
    """
    found = []
    for access in asked:
        repository = selectors.repository_named(access.name)
        if repository is None or not repository.tenant.is_active:
            continue
        actions = tuple(action for action in access.actions if _may(who, action, repository))
        if actions and _noted(repository):
            found.append(Access(access.name, actions, access.kind))
    return found


def _may(who: Who, action: str, repository: Repository) -> bool:
    if action == "pull" and repository.is_public:
        return True
    if _has(who, action, repository):
        return True
    # The registry asks for both where something is written (distribution 2.8, appendAccessRecords).
    return action == "pull" and _has(who, "push", repository)


def _has(who: Who, action: str, repository: Repository) -> bool:
    if isinstance(who, Robot):
        return who.is_live(now()) and who.may(action, repository)
    return allows_images(who, _NEEDS[action], tenant_id=repository.tenant_id, slug=repository.name)


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


def subject_of(who: Who) -> str:
    """The name by which the registry knows them: it comes back in its notifications."""
    return who.login if isinstance(who, Robot) else who.get_username()


def token_issue(*, subject: str, access: list[Access], key: SigningKey | None = None) -> Issued:
    """Sign a token of five minutes. Raises RegistryUnconfigured where no key is set."""
    key = key or signing_key()
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
        "access": [one.claim() for one in access],
    }
    token = jwt.encode(claims, key.key, algorithm="RS256", headers={"kid": key.kid})
    return Issued(token, TOKEN_S, issued.isoformat().replace("+00:00", "Z"))


def purge_token(repository: str) -> str:
    """The platform's own credential for reading and deleting what one repository holds."""
    return token_issue(subject="", access=[Access(repository, ("delete", "pull"))]).token


#: Who the platform is where it pushes by itself: no user's name has a colon.
CLEANER = "berth:clean-up"


def cleaning_token(repository: str) -> str:
    """The platform's own credential for deleting versions; it pushes, too, where a tag can't be deleted otherwise."""
    return token_issue(subject=CLEANER, access=[Access(repository, ("delete", "pull", "push"))]).token


def pull_token(repository: str) -> str:
    """The platform's own credential for one pull of one repository."""
    return token_issue(subject="", access=[Access(repository, ("pull",))]).token


def push_token(repository: str, by: Who) -> str | None:
    """A credential for pushing to one repository in somebody's name; None where they may not (any more).

    Raises PushRefused where they may, and can't for now.
    """
    access = granted(by, Asked([Access(repository, ("pull", "push"))], frozenset({repository})))
    if not any("push" in one.actions for one in access):
        return None
    return token_issue(subject=subject_of(by), access=access).token
