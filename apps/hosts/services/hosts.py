"""Adding hosts."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from apps.core import jobs
from apps.hosts.models import Cluster, Host


@transaction.atomic
def host_register(*, cluster: Cluster, name: str, **fields: Any) -> Host:
    """A host as an admin describes it, or that host described anew. It takes instances once its engine answered."""
    host, _ = Host.objects.update_or_create(
        name=name, defaults={**fields, "cluster": cluster, "status": Host.Status.JOINING}
    )
    host_look(host=host)
    return host


def host_look(*, host: Host) -> None:
    """Have the host's engine asked right after the commit, not at the next sweep."""
    jobs.enqueue(jobs.OBSERVE_HOST, host.pk)
