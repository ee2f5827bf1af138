"""What a ping of a host's engine says, written down."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction

from apps.core import events
from apps.core.clock import now
from apps.hosts.models import Host

SUSPECT_AFTER_S = 6
DOWN_AFTER_S = 30


@transaction.atomic
def host_seen(*, host: Host, engine_version: str) -> None:
    """The engine answered: the host is ready, unless an admin has set it aside."""
    Host.objects.filter(pk=host.pk).update(last_seen_at=now(), last_error="", engine_version=engine_version[:60])
    back = Host.objects.filter(
        pk=host.pk, status__in=[Host.Status.JOINING, Host.Status.SUSPECT, Host.Status.DOWN]
    ).update(status=Host.Status.READY)
    if back:
        events.record("host.ready", f"Host {host.name} answers.", host_id=host.pk)


@transaction.atomic
def host_silent(*, host: Host, error: str) -> None:
    """The engine did not answer: after a while nothing more is placed there. Its containers are left alone."""
    Host.objects.filter(pk=host.pk).update(last_error=error[:500])
    since = host.last_seen_at
    for old, new, limit in (
        (Host.Status.READY, Host.Status.SUSPECT, SUSPECT_AFTER_S),
        (Host.Status.SUSPECT, Host.Status.DOWN, DOWN_AFTER_S),
    ):
        if since is not None and now() - since < timedelta(seconds=limit):
            continue
        if Host.objects.filter(pk=host.pk, status=old).update(status=new):
            events.record(
                f"host.{new}",
                f"Host {host.name} does not answer: {error[:300]}",
                level="warning" if new == Host.Status.SUSPECT else "error",
                host_id=host.pk,
            )
            return
