"""Failed sign-ins, counted in rows: who fails again and again is made to wait, longer each time.

Three counts, each of failures within FORGET_S of each other:

- of one name from one address: a mistyped secret, or a build server that has an old one;
- of one address, over all names: somebody who tries many names. A name counts here for its first few failures only,
  so that one forgotten build server does not lock out the office that it shares an address with;
- of one name, over all addresses: somebody with many addresses. This one holds for addresses that failed with that name
  lately, and for no others: a stranger can't lock out whoever has the right secret.

Rows, since web processes share nothing else that is always there. What is typed as a name may be a secret in the wrong
field: only its hash is kept.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F

from apps.core.clock import now
from apps.core.errors import Refused
from apps.core.models import FailedSignIns

#: Seconds after which failures are forgotten, counted from the last one.
FORGET_S = 3600
#: The first wait, and the longest. It doubles with each failure.
FIRST_S, MOST_S = 5, 900
#: So many failures are free.
FREE = {FailedSignIns.Scope.PAIR: 5, FailedSignIns.Scope.ADDRESS: 30, FailedSignIns.Scope.NAME: 20}


class Throttled(Refused):
    """``retry_after`` is in seconds."""

    code = "auth.throttled"
    status = 429


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in at one of the platform's doors, such as "registry". ``address`` is the client's, or empty."""

    door: str
    name: str
    address: str

    def key(self, scope: str) -> str:
        network = network_of(self.address)
        parts = {
            FailedSignIns.Scope.PAIR: (self.name, network),
            FailedSignIns.Scope.ADDRESS: ("", network),
            FailedSignIns.Scope.NAME: (self.name, ""),
        }[FailedSignIns.Scope(scope)]
        text = "\0".join((self.door, scope, *parts))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, since one machine has all the rest to choose from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def wait_s(attempt: Attempt) -> int:
    """Seconds until the attempt may be made; 0 for at once."""
    at = now()
    keys = {attempt.key(scope): scope for scope in _scopes(attempt)}
    rows = {
        keys[row.key]: row
        for row in FailedSignIns.objects.filter(key__in=keys, last_at__gte=at - timedelta(seconds=FORGET_S))
    }
    if FailedSignIns.Scope.PAIR not in rows:
        # The name may be under attack from elsewhere: not this address's fault.
        rows.pop(FailedSignIns.Scope.NAME, None)
    waits = [(row.locked_until - at).total_seconds() for row in rows.values() if row.locked_until is not None]
    return max((int(wait) + 1 for wait in waits if wait > 0), default=0)


def check(attempt: Attempt) -> None:
    """Before the secret is looked at. Raises Throttled."""
    if seconds := wait_s(attempt):
        raise Throttled(
            f"Too many failed sign-ins. Wait {seconds} s, then try again with the right secret.", retry_after=seconds
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """``began`` says that from now on the name has to wait, which it did not before."""

    wait_s: int
    began: bool


@transaction.atomic
def failed(attempt: Attempt) -> Failure:
    """Note a failure, of an attempt that ``check`` let through."""
    scope = FailedSignIns.Scope
    pair, name = _count(attempt, scope.PAIR), _count(attempt, scope.NAME)
    waits = [_locked(attempt, scope.PAIR, pair), _locked(attempt, scope.NAME, name)]
    if scope.ADDRESS in _scopes(attempt) and pair <= FREE[scope.PAIR]:
        waits.append(_locked(attempt, scope.ADDRESS, _count(attempt, scope.ADDRESS)))
    began = name == FREE[scope.NAME] or (pair == FREE[scope.PAIR] and name < FREE[scope.NAME])
    return Failure(max(waits), began)


def passed(attempt: Attempt) -> None:
    """The right secret: what failed from there with this name counts no more."""
    FailedSignIns.objects.filter(key=attempt.key(FailedSignIns.Scope.PAIR)).delete()


def prune() -> int:
    """Delete what is forgotten. Returns how many rows."""
    return FailedSignIns.objects.filter(last_at__lt=now() - timedelta(seconds=FORGET_S)).delete()[0]


def _scopes(attempt: Attempt) -> list[str]:
    # Without a known address everybody would be one: a web server that listens on a Unix socket.
    known = bool(network_of(attempt.address))
    return [scope for scope in FailedSignIns.Scope if known or scope != FailedSignIns.Scope.ADDRESS]


def _count(attempt: Attempt, scope: str) -> int:
    at = now()
    address = "" if scope == FailedSignIns.Scope.NAME else network_of(attempt.address)
    key = attempt.key(scope)
    # Locked: whoever signs in from there just now, or prunes, deletes it otherwise before it is counted.
    FailedSignIns.objects.select_for_update().get_or_create(
        key=key, defaults={"door": attempt.door, "scope": scope, "address": address, "last_at": at}
    )
    rows = FailedSignIns.objects.filter(key=key)
    rows.filter(last_at__lt=at - timedelta(seconds=FORGET_S)).update(count=0, locked_until=None)
    rows.update(count=F("count") + 1, last_at=at)
    return rows.values_list("count", flat=True).get()


def _locked(attempt: Attempt, scope: str, count: int) -> int:
    beyond = count - FREE[FailedSignIns.Scope(scope)]
    if beyond < 0:
        return 0
    seconds: int = min(MOST_S, FIRST_S * 2 ** min(beyond, 20))
    until: datetime = now() + timedelta(seconds=seconds)
    FailedSignIns.objects.filter(key=attempt.key(scope)).update(locked_until=until)
    return seconds
