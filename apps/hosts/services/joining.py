"""One-time tokens, and the machine that becomes a host with one. Nothing here talks to the host: it was it that asked.

Whoever holds a token may add one host, and whoever holds a host's secret may report for that host: nothing else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from apps.core import events
from apps.core.clock import after, now
from apps.core.errors import Conflict, Missing
from apps.hosts.models import Cluster, Host, HostIdentity, JoinToken
from apps.hosts.models.hosts import valid_labels
from apps.hosts.services.authority import Issued, authority, key_digest, public_key_of, server_certificate
from apps.hosts.services.hosts import HostInvalid, host_look, ratios
from apps.tenants.models import User

PREFIX = "brj_"
REPORT_PREFIX = "brh_"
ENGINE_PORT = 2376
VALID_S = 3600
MIN_VALID_S = 60
MAX_VALID_S = 7 * 86400
#: A DNS label, since it stands in the certificate; small letters, since names are compared as they are.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9.+~:_-]{0,60}")
#: They would be the API's own addresses below /hosts/.
_RESERVED = frozenset({"join", "report"})
_MAX_MEMORY_MB = 2**26
_MAX_CPU_MILLIS = 2**23
_MAX_DISK_MB = 2**40


class JoinTokenInvalid(Missing):
    """Unknown, used, revoked or expired: the four are never told apart."""

    code = "hosts.join_token_invalid"


class JoinTokenMissing(Missing):
    code = "hosts.join_token_not_found"


class NameTaken(Conflict):
    code = "hosts.name_taken"


class AddressTaken(Conflict):
    code = "hosts.address_taken"


@dataclass(frozen=True, slots=True)
class Joined:
    """What the machine takes home. ``report_secret`` is nowhere else: only its hash is kept."""

    host: Host
    ca: str
    certificate: str
    report_secret: str = field(repr=False)


def secret_digest(secret: str) -> str:
    """High-entropy secrets need no slow hash, as apps.tenants.selectors.token_digest says."""
    return hashlib.sha256(secret.encode()).hexdigest()


@transaction.atomic
def join_token_create(
    *,
    cluster: Cluster,
    by: User,
    valid_s: int = VALID_S,
    labels: Mapping[str, str] | None = None,
    memory_mb_reserve: int | None = None,
    cpu_millis_reserve: int | None = None,
) -> tuple[JoinToken, str]:
    """A new token and its secret, which nobody can read again. Raises HostInvalid."""
    if not MIN_VALID_S <= valid_s <= MAX_VALID_S:
        raise HostInvalid(f"A join token is good for {MIN_VALID_S} to {MAX_VALID_S} seconds.", field="valid_s")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = JoinToken.objects.create(
        cluster=cluster,
        digest=secret_digest(secret),
        prefix=secret[:8],
        labels=_labels(labels or {}),
        memory_mb_reserve=_reserve("memory_mb_reserve", memory_mb_reserve, _MAX_MEMORY_MB),
        cpu_millis_reserve=_reserve("cpu_millis_reserve", cpu_millis_reserve, _MAX_CPU_MILLIS),
        created_by=by,
        expires_at=after(valid_s),
    )
    events.record(
        "host.join_token_created",
        f"Join token {token.prefix}… was made: one machine may join the cluster {cluster.slug}.",
        actor=by.get_username(),
        token=token.pk,
        expires_at=token.expires_at.isoformat(),
    )
    return token, secret


@transaction.atomic
def join_token_revoke(*, token: JoinToken, by: str = "") -> bool:
    """End the token at once. False where it was used or revoked already."""
    rows = JoinToken.objects.filter(pk=token.pk, used_at=None, revoked_at=None)
    if not rows.update(revoked_at=now()):
        return False
    events.record("host.join_token_revoked", f"Join token {token.prefix}… was revoked.", actor=by, token=token.pk)
    return True


def join_token_check(*, secret: str) -> JoinToken:
    """The open token of this secret, left as it is. Raises JoinTokenInvalid.

    Asked before anything else of a request is looked at; whether it is still open is decided by host_join.
    """
    token = JoinToken.objects.filter(
        digest=secret_digest(secret), used_at=None, revoked_at=None, expires_at__gt=now()
    ).first()
    if token is None:
        raise _refused()
    return token


def host_join(
    *,
    secret: str,
    name: str,
    address: str,
    csr: str,
    cpu_millis: int,
    memory_mb: int,
    disk_mb: int,
    labels: Mapping[str, str] | None = None,
    engine_version: str = "",
) -> Joined:
    """Make the machine a host, and sign its engine's certificate. The token is used up by it, and by nothing else.

    Raises JoinTokenInvalid, HostInvalid, CsrInvalid, NameTaken or AddressTaken; the token stays open then.
    """
    token = join_token_check(secret=secret)
    address = _address(address)
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise HostInvalid(
            "A host's name has small letters, digits and hyphens, 63 at most, and is not join or report.", field="name"
        )
    if not _VERSION.fullmatch(engine_version):
        raise HostInvalid("The engine's version cannot be read.", field="engine_version")
    _within("cpu_millis", cpu_millis, 1, _MAX_CPU_MILLIS)
    _within("memory_mb", memory_mb, 1, _MAX_MEMORY_MB)
    _within("disk_mb", disk_mb, 0, _MAX_DISK_MB)
    columns: dict[str, object] = {
        "cluster": token.cluster,
        "name": name,
        "address": address,
        "engine_url": engine_url(address),
        "cpu_millis": cpu_millis,
        "memory_mb": memory_mb,
        "disk_mb": disk_mb or None,
        # What the admin gave the token goes before what the machine says of itself.
        "labels": _labels({**_labels(labels or {}), **token.labels}),
        "engine_version": engine_version,
        "memory_mb_reserve": _kept(memory_mb, 256, token.memory_mb_reserve),
        "cpu_millis_reserve": _kept(cpu_millis, 100, token.cpu_millis_reserve),
        **ratios(token.cluster),
    }
    key = key_digest(public_key_of(csr))
    # Before the transaction: the first host of all makes the authority, and another that joins need not wait for it.
    ca = authority().certificate
    try:
        return _joined(token, columns, csr, key, ca)
    except IntegrityError:
        _refuse_taken(name, address)
        raise


@transaction.atomic
def _joined(token: JoinToken, columns: dict[str, object], csr: str, key: str, ca: str) -> Joined:
    name, address = str(columns["name"]), str(columns["address"])
    moment = now()
    rows = JoinToken.objects.filter(pk=token.pk, used_at=None, revoked_at=None, expires_at__gt=moment)
    if not rows.update(used_at=moment):
        raise _refused()
    _refuse_taken(name, address)
    host = Host.objects.create(**columns)
    JoinToken.objects.filter(pk=token.pk).update(host=host)
    issued = server_certificate(csr=csr, name=name, address=address)
    report_secret = REPORT_PREFIX + secrets.token_urlsafe(32)
    HostIdentity.objects.create(
        host=host,
        digest=secret_digest(report_secret),
        key_digest=key,
        certificate_serial=issued.serial,
        certificate_expires_at=issued.expires_at,
    )
    events.record(
        "host.joined",
        f"Host {name} joined the cluster {token.cluster.slug}.",
        host_id=host.pk,
        actor=token.created_by.get_username() if token.created_by else "",
        token=token.pk,
        address=address,
        certificate_expires_at=issued.expires_at.isoformat(),
    )
    host_look(host=host)
    return Joined(host, ca, issued.certificate, report_secret)


def certificate_note(identity: HostIdentity, issued: Issued) -> bool:
    """Write down which certificate the host has now. False where another report was first."""
    rows = HostIdentity.objects.filter(pk=identity.pk, certificate_serial=identity.certificate_serial)
    return bool(rows.update(certificate_serial=issued.serial, certificate_expires_at=issued.expires_at))


def engine_url(address: str) -> str:
    """Where the engine of a joined host is. Addresses of IPv6 stand in brackets (RFC 3986, 3.2.2)."""
    return f"https://[{address}]:{ENGINE_PORT}" if ":" in address else f"https://{address}:{ENGINE_PORT}"


def _refused() -> JoinTokenInvalid:
    return JoinTokenInvalid("This join token is not valid (any more). Ask an admin for a new one.")


def _address(text: str) -> str:
    """The address in its one spelling. Private ones are fine: hosts are mostly on them."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise HostInvalid("The address must be an IP address.", field="address") from None
    scoped = isinstance(found, ipaddress.IPv6Address) and (found.scope_id or found.ipv4_mapped or found.is_site_local)
    unusable = found.is_loopback or found.is_multicast or found.is_unspecified or found.is_link_local
    # Class E and 255.255.255.255; of IPv6 everything that nobody was given is "reserved" too.
    if scoped or unusable or found.is_reserved:
        raise HostInvalid(f"The platform can't reach a host at {found}. Give --address.", field="address")
    return found.compressed


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    try:
        valid_labels(labels)
    except ValidationError as error:
        raise HostInvalid(error.messages[0], field="labels") from None
    return dict(labels)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise HostInvalid(f"{name} must be from {least} to {most}.", field=name)


def _reserve(name: str, value: int | None, most: int) -> int | None:
    if value is not None:
        _within(name, value, 0, most)
    return value


def _kept(total: int, least: int, preset: int | None) -> int:
    """What the host keeps for its own system. Of a small machine never more than half, or it would take nothing."""
    return min(total // 2, max(least, total // 20) if preset is None else preset)


def _refuse_taken(name: str, address: str) -> None:
    known = Host.objects.exclude(status=Host.Status.REMOVED)
    if known.filter(name=name).exists():
        raise NameTaken(f"There is a host {name} already. Give another --name, or remove that host first.", name=name)
    if known.filter(address=address).exists() or known.filter(engine_url=engine_url(address)).exists():
        raise AddressTaken(f"There is a host at {address} already. Remove that host first.", address=address)
