"""What gateways do with an app's requests: changed here, in force once its route is published."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction

from apps.core import events
from apps.core.errors import Conflict, Invalid, Missing
from apps.deployments.models import App, GatewayPolicy, SignInPerson
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.tenants.models import User
from apps.tenants.permissions import Action, require
from gateway.contract import LIMITS, ContractError, network
from gateway.contract.policies import MOST_NETWORKS, MOST_USERS

SWITCHES: Final = ("maintenance", "https_only", "canary_for_testers")
#: The largest value of each number; 0 is off. Seconds, bytes, requests a second.
MOST: Final[Mapping[str, int]] = {
    "hsts_seconds": LIMITS["hsts_seconds"],
    "hold_s": LIMITS["hold_ms"] // 1000,
    "app_rate": LIMITS["app_rate"],
    "client_rate": LIMITS["client_rate"],
    "max_body_bytes": LIMITS["max_body_bytes"],
    "max_header_bytes": LIMITS["max_header_bytes"],
    "answer_timeout_s": LIMITS["answer_timeout_ms"] // 1000,
}
#: Below it a browser's own headers would be too large.
LEAST_HEADER_BYTES = 1024
LISTS: Final = ("deny", "allow")
FIELDS: Final = (*SWITCHES, *MOST, *LISTS)
#: Who may come in at all is for those who manage the app.
MANAGED: Final = frozenset(LISTS)
LEAST_PASSWORD, MOST_PASSWORD = 8, 128
#: Networks of a list that an event names.
TOLD = 20
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Beyond ASCII browsers do not agree on the encoding (RFC 7617, 2.1).
_PASSWORD = re.compile(r"[\x20-\x7e]+")
_SALT_BYTES = 32


class PolicyInvalid(Invalid):
    code = "policy.invalid"


class PolicyOfHttp(Conflict):
    """A rule about requests, for an app that speaks TCP: it would have no effect."""

    code = "policy.http_only"


class PersonInvalid(Invalid):
    code = "policy.person_invalid"


class PersonMissing(Missing):
    code = "policy.person_not_found"


class TooManyPeople(Conflict):
    code = "policy.too_many_people"


@transaction.atomic
def policy_set(*, app: App, changes: Mapping[str, Any], by: User) -> GatewayPolicy:
    """Change some of the rules (FIELDS); the others stay. Nothing happens where all of them were so.

    Raises Denied, PolicyInvalid (``field``), PolicyOfHttp, AppDeleting.
    """
    require(by, Action.DEPLOY, app)
    values = {name: _checked(name, value) for name, value in changes.items()}
    app = not_going(app_locked(app.pk))
    row = GatewayPolicy.objects.filter(app=app).first() or GatewayPolicy(app=app)
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changed.keys() & MANAGED:
        require(by, Action.MANAGE, app)
    if not changed:
        return row
    in_vain = sorted(name for name, value in changed.items() if value and name not in LISTS)
    if app.protocol == App.Protocol.TCP and in_vain:
        raise PolicyOfHttp(f"{in_vain[0]} is about requests, and {app.slug} speaks TCP.", field=in_vain[0])
    before = {name: getattr(row, name) for name in changed}
    for name, value in changed.items():
        setattr(row, name, value)
    row.updated_by = by.username
    row.save()
    _tell(app, changed, before, by)
    route_touch(app_id=app.pk)
    return row


def _tell(app: App, changed: Mapping[str, Any], before: Mapping[str, Any], by: User) -> None:
    about: dict[str, Any] = {"tenant_id": app.tenant_id, "app_id": app.pk, "actor": by.username}
    rest = dict(changed)
    maintenance = rest.pop("maintenance", None)
    if maintenance is not None:
        code = "policy.maintenance_began" if maintenance else "policy.maintenance_ended"
        words = "shows a maintenance page now" if maintenance else "is out of maintenance"
        events.record(code, f"{app.slug} {words}.", level="warning" if maintenance else "info", **about)
    if rest:
        events.record(
            "policy.changed",
            f"Rules of {app.slug} were changed: {', '.join(sorted(rest))}.",
            **about,
            before={name: _brief(before[name]) for name in rest},
            after={name: _brief(value) for name, value in rest.items()},
        )


def _brief(value: Any) -> Any:
    return [*value[:TOLD], f"and {len(value) - TOLD} more"] if isinstance(value, list) and len(value) > TOLD else value


def _checked(name: str, value: object) -> Any:
    if name in SWITCHES:
        if type(value) is not bool:
            raise PolicyInvalid(f"{name} is on or off: true or false.", field=name)
        return value
    if name in MOST:
        if type(value) is not int or not 0 <= value <= MOST[name]:
            raise PolicyInvalid(f"{name} must be a whole number from 0 to {MOST[name]}.", field=name)
        if name == "max_header_bytes" and 0 < value < LEAST_HEADER_BYTES:
            raise PolicyInvalid(f"{name} must be 0, or {LEAST_HEADER_BYTES} or more.", field=name)
        return value
    if name in LISTS:
        return _networks(name, value)
    raise PolicyInvalid(f"There is no rule {name[:40]!r}.", field="")


def _networks(name: str, value: object) -> list[str]:
    """In the one way to write each, and once."""
    if not isinstance(value, list | tuple):
        raise PolicyInvalid(f"{name} is a list of networks such as 10.1.0.0/16.", field=name)
    try:
        found = list(dict.fromkeys(network(str(one).strip()) for one in value))
    except ContractError as error:
        raise PolicyInvalid(f"{name}: {error}. Write it like 10.1.0.0/16 or 2001:db8::/32.", field=name) from None
    if len(found) > MOST_NETWORKS:
        raise PolicyInvalid(f"{name} may hold {MOST_NETWORKS} networks.", field=name)
    return found


def rules_in_vain(app: App) -> list[str]:
    """Which rules that are on would have no effect, did the app speak TCP."""
    row = GatewayPolicy.objects.filter(app=app).first()
    found = [name for name in FIELDS if row is not None and name not in LISTS and getattr(row, name)]
    return found + (["people"] if SignInPerson.objects.filter(app=app).exists() else [])


# People -----------------------------------------------------------------------------------------------------------


@transaction.atomic
def person_set(*, app: App, name: str, password: str, by: User) -> SignInPerson:
    """This one may sign in, with this password from now on. With the first of them the app asks everybody to.

    Raises Denied, PersonInvalid (``field``), PolicyOfHttp, TooManyPeople, AppDeleting.
    """
    require(by, Action.MANAGE, app)
    if not _NAME.fullmatch(name):
        raise PersonInvalid("A name has 1 to 64 letters, digits and . _ @ - (no others).", field="name")
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD or not _PASSWORD.fullmatch(password):
        raise PersonInvalid(
            f"A password has {LEAST_PASSWORD} to {MOST_PASSWORD} letters, digits and signs of ASCII.", field="password"
        )
    app = not_going(app_locked(app.pk))
    if app.protocol == App.Protocol.TCP:
        raise PolicyOfHttp(f"Signing in is about requests, and {app.slug} speaks TCP.", field="name")
    people = SignInPerson.objects.filter(app=app)
    if not people.filter(name=name).exists() and people.count() >= MOST_USERS:
        raise TooManyPeople(f"{MOST_USERS} people may sign in to an app. Take one away first.")
    row, _ = GatewayPolicy.objects.get_or_create(app=app)
    if not row.salt:
        row.salt = base64.b64encode(secrets.token_bytes(_SALT_BYTES)).decode()
        row.save(update_fields=["salt"])
    values = {"digest": digest_of(row.salt, name, password), "created_by": by.username}
    person, new = SignInPerson.objects.update_or_create(app=app, name=name, defaults=values)
    words = f"{name} may sign in to {app.slug}." if new else f"{name} of {app.slug} has another password."
    _told_of_person("policy.person_set", words, app, name, by)
    route_touch(app_id=app.pk)
    return person


@transaction.atomic
def person_remove(*, app: App, name: str, by: User) -> None:
    """Without the last of them the app asks nobody to sign in. Raises Denied, PersonMissing, AppDeleting."""
    require(by, Action.MANAGE, app)
    app = not_going(app_locked(app.pk))
    people = SignInPerson.objects.filter(app=app)
    if not people.filter(name=name).delete()[0]:
        raise PersonMissing(f"Nobody of this name may sign in to {app.slug}.")
    words = f"{name} may not sign in to {app.slug} any more."
    if not people.exists():
        words += " That was the last one: it is open to everybody now."
    _told_of_person("policy.person_removed", words, app, name, by)
    route_touch(app_id=app.pk)


def _told_of_person(code: str, words: str, app: App, name: str, by: User) -> None:
    events.record(code, words, tenant_id=app.tenant_id, app_id=app.pk, actor=by.username, person=name)


def digest_of(salt: str, name: str, password: str) -> str:
    """Of the Authorization header that a client sends (RFC 7617, 2); see gateway.contract.SignIn."""
    sent = b"Basic " + base64.b64encode(f"{name}:{password}".encode())
    return hmac.new(base64.b64decode(salt), sent, hashlib.sha256).hexdigest()
