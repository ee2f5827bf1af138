"""Failure capsules: what is known of an instance that came to a bad end is kept before its container goes."""

from __future__ import annotations

import signal

import structlog
from django.conf import settings
from django.db.models import Q

from apps.deployments.models import FailureCapsule, Instance, NoLog
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.logtext import LINES, masked, plain, readable
from apps.deployments.services.capsules import capsule_keep
from apps.hosts.engines.base import EngineError, EngineUnreachable, Observed

log = structlog.get_logger(__name__)
Status = Instance.Status

#: Ends that are worth a capsule; one that is stopped because it is not wanted any more is none.
BAD_ENDS = (Status.FAILED, Status.UNHEALTHY, Status.LOST)
#: What may be had after all when it is asked for again.
_ASK_AGAIN = (NoLog.HOST_SILENT, NoLog.ENGINE_FAILED)
#: Of these there was never a container.
_NO_CONTAINER = ("image.", "container.")
MAX_CHECK = 8192


def capture(instance: Instance, clients: Clients) -> None:
    """Keep the capsule of an instance that ended badly, if it is not kept yet. May be repeated.

    An engine that does not give the log is waited for once, for its read time-out: the removal goes on without.
    """
    if not _ended_badly(instance) or _kept(instance):
        return
    secrets = instance.replica_set.release.secrets
    raw, observed, missing = _look(instance, clients)
    text, truncated = readable(raw, secrets)
    if not text.strip() and not missing:
        missing = NoLog.WROTE_NOTHING
    exit_code = instance.exit_code if observed is None or observed.exit_code is None else observed.exit_code
    capsule_keep(
        instance=instance,
        exit_code=exit_code,
        signal=signal_of(exit_code),
        out_of_memory=instance.code == "instance.out_of_memory" or bool(observed and observed.oom_killed),
        log="" if missing else text,
        log_truncated=truncated and not missing,
        log_missing=missing,
        last_check=masked(plain(instance.last_check), secrets)[:MAX_CHECK],
    )


def _ended_badly(instance: Instance) -> bool:
    # One that is placed and has a container is about to be started anew where it is: this is the old one.
    again = instance.status == Status.PLACED and bool(instance.container_id)
    return again or instance.status in BAD_ENDS


def signal_of(exit_code: int | None) -> str:
    """The name of the signal that ended it: a shell's and an engine's exit code is then 128 and its number."""
    if exit_code is None or exit_code <= 128:
        return ""
    try:
        return signal.Signals(exit_code - 128).name
    except ValueError:
        return ""


def _kept(instance: Instance) -> bool:
    """Whether there is one of this end; a row that was restarted in place may have one of an earlier end."""
    rows = FailureCapsule.objects.filter(instance=instance).exclude(log_missing__in=_ASK_AGAIN)
    if instance.status == Status.LOST:
        # It had failed, and its host fell silent before it was removed: that log is better than none.
        return rows.filter(Q(created_at__gte=instance.running_at) if instance.running_at else Q()).exists()
    return rows.filter(created_at__gte=instance.status_since).exists()


def _look(instance: Instance, clients: Clients) -> tuple[bytes, Observed | None, NoLog | None]:
    if instance.status == Status.LOST:
        return b"", None, NoLog.HOST_SILENT
    if not instance.container_id and instance.code.startswith(_NO_CONTAINER):
        return b"", None, NoLog.NEVER_STARTED
    try:
        engine = clients.engine(instance.host)
        name = container_name(instance)
        # One line more than is kept tells whether there was more.
        raw = engine.logs(name, tail=LINES + 1)
        observed = engine.inspect(name)
    except EngineError as error:
        log.warning("log_unread", instance=str(instance.uid), host=instance.host.name, error=str(error))
        unreachable = isinstance(error, EngineUnreachable)
        return b"", None, NoLog.HOST_SILENT if unreachable else NoLog.ENGINE_FAILED
    if observed is None and not raw:
        return b"", None, NoLog.GONE if instance.container_id else NoLog.NEVER_STARTED
    return raw, observed, None


def container_name(instance: Instance) -> str:
    """As ContainerSpec.name has it; making the whole spec would need more rows."""
    return f"berth-{settings.PLATFORM_ID}-{instance.app.slug}-{instance.short_id}"
