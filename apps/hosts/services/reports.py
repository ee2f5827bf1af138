"""What a joined host says of itself every few seconds, and the renewal of its certificate that comes with it.

The secret with which it reports goes through whatever ends TLS for the portal; its private key never leaves it. So
a certificate is renewed for the key that joined and for no other: the secret alone makes nobody the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Missing
from apps.hosts.models import Host, HostIdentity
from apps.hosts.services.authority import (
    RENEW_BEFORE,
    SERVER_LIFE,
    CsrInvalid,
    Issued,
    key_digest,
    public_key_of,
    server_certificate,
)
from apps.hosts.services.joining import certificate_note, secret_digest

#: Disk pressure begins with less than this much left: a twentieth, or 2 GiB; of a small disk never more than a quarter,
#: which else would be full for ever. It ends with half as much again, so that it doesn't come and go.
_PRESSURE_PART = 20
_PRESSURE_MB = 2048
_PRESSURE_AT_MOST = 4
_MAX_MB = 2**40
#: A certificate that got lost on its way is made again after so long: each one restarts the host's engine. There is
#: time, since renewal begins a month before the end.
LOST_AFTER = timedelta(days=1)


class HostUnknown(Missing):
    """No host has this secret (any more)."""

    code = "hosts.identity_invalid"


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU in thousandths of the whole machine; memory and disk (of the engine's data) in MiB."""

    cpu_idle_permille: int
    memory_mb_idle: int
    disk_mb: int
    disk_mb_idle: int


@dataclass(frozen=True, slots=True)
class Reported:
    """``renew``: send a certificate request with the next report. ``certificate`` is PEM, where there is a new one.

    The authority is not in it: a host trusts the one that it joined, whoever answers later.
    """

    renew: bool
    certificate: str = ""


def identity_of(*, secret: str) -> HostIdentity:
    """The joined host of this secret. Raises HostUnknown, also for one that was removed."""
    known = HostIdentity.objects.exclude(host__status=Host.Status.REMOVED).select_related("host")
    found = known.filter(digest=secret_digest(secret)).first()
    if found is None:
        raise HostUnknown("No host has this secret. If the host was removed, join it again with a new token.")
    return found


@transaction.atomic
def host_report(*, identity: HostIdentity, sample: Sample, serial: str = "", csr: str = "") -> Reported:
    """Write the sample down; renew the certificate where that is due and a request came along.

    ``serial`` is that of the certificate that the host has. If that is not the last one that was made, the answer with
    the new one was lost, and another is due a day later. Raises CsrInvalid, also for another key than it joined with.
    """
    host = identity.host
    disk_mb, disk_mb_idle = min(sample.disk_mb, _MAX_MB), min(sample.disk_mb_idle, sample.disk_mb, _MAX_MB)
    Host.objects.filter(pk=host.pk).update(
        sampled_at=now(),
        cpu_millis_idle=host.cpu_millis * min(max(sample.cpu_idle_permille, 0), 1000) // 1000,
        memory_mb_idle=min(max(sample.memory_mb_idle, 0), host.memory_mb),
        disk_mb=disk_mb,
        disk_mb_idle=disk_mb_idle,
    )
    if disk_mb > 0:
        _pressure(host, disk_mb, disk_mb_idle)
    due = identity.certificate_expires_at - now() < RENEW_BEFORE
    rested = now() - (identity.certificate_expires_at - SERVER_LIFE) > LOST_AFTER
    lost = rested and bool(serial) and serial.lower().lstrip("0") != identity.certificate_serial
    if not csr or not (due or lost):
        return Reported(renew=due or lost)
    if identity.key_digest not in ("", key_digest(public_key_of(csr))):
        raise CsrInvalid("This is not the key with which the host joined. To change it, join anew.", field="csr")
    issued = server_certificate(csr=csr, name=host.name, address=host.address)
    return _renewed(identity, issued)


def _renewed(identity: HostIdentity, issued: Issued) -> Reported:
    if not certificate_note(identity, issued):
        return Reported(renew=True)
    events.record(
        "host.certificate_renewed",
        f"The certificate of host {identity.host.name} was renewed.",
        host_id=identity.host_id,
        certificate_expires_at=issued.expires_at.isoformat(),
    )
    return Reported(renew=False, certificate=issued.certificate)


def _pressure(host: Host, disk_mb: int, idle_mb: int) -> None:
    """Nothing more is placed on a host whose disk is nearly full; what runs there stays."""
    begins = min(max(disk_mb // _PRESSURE_PART, _PRESSURE_MB), disk_mb // _PRESSURE_AT_MOST)
    rows = Host.objects.filter(pk=host.pk)
    if idle_mb < begins and rows.filter(disk_pressure=False).update(disk_pressure=True):
        events.record(
            "host.disk_pressure",
            f"The disk of host {host.name} is nearly full: {idle_mb} of {disk_mb} MiB left. It takes no more instances "
            "until there is room again.",
            level="warning",
            host_id=host.pk,
            disk_mb=disk_mb,
            disk_mb_idle=idle_mb,
        )
    elif 2 * idle_mb > 3 * begins and rows.filter(disk_pressure=True).update(disk_pressure=False):
        events.record(
            "host.disk_pressure_ended",
            f"The disk of host {host.name} has {idle_mb} MiB left again.",
            host_id=host.pk,
            disk_mb=disk_mb,
            disk_mb_idle=idle_mb,
        )
