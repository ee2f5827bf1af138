"""What admins do with hosts: add, describe, set aside, take away."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from apps.core import events, jobs
from apps.core.errors import Conflict, Invalid
from apps.hosts.models import Allocation, Cluster, Host, PortAllocation
from apps.hosts.models.hosts import valid_labels
from apps.hosts.services.claims import hosts_locked

Availability = Host.Availability


class HostInUse(Conflict):
    code = "hosts.in_use"


class HostInvalid(Invalid):
    code = "hosts.invalid"


@transaction.atomic
def host_register(*, cluster: Cluster, name: str, **fields: Any) -> Host:
    """A host as an admin describes it, or that host described anew. It takes instances once its engine answered.

    Raises HostInvalid for labels that are none.
    """
    try:
        valid_labels(fields.get("labels", {}))
    except ValidationError as error:
        raise HostInvalid(error.messages[0], field="labels") from None
    host, _ = Host.objects.exclude(status=Host.Status.REMOVED).update_or_create(
        name=name, defaults={**fields, **ratios(cluster), "cluster": cluster, "status": Host.Status.JOINING}
    )
    host_look(host=host)
    return host


def ratios(cluster: Cluster) -> dict[str, int]:
    """The columns that a host has as copies of its cluster's."""
    return {"memory_overcommit": cluster.memory_overcommit, "cpu_overcommit": cluster.cpu_overcommit}


@transaction.atomic
def cluster_changed(*, cluster: Cluster) -> None:
    """Hand the cluster's ratios down to its hosts. Where more is promised by now than may be, nothing is stopped and
    nothing more is placed.
    """
    # In the order in which placements lock them; an update of many rows keeps none.
    hosts_locked(Host.objects.filter(cluster=cluster).values_list("pk", flat=True), ["pk"])
    Host.objects.filter(cluster=cluster).update(**ratios(cluster))


def host_look(*, host: Host) -> None:
    """Have the host's engine asked right after the commit, not at the next sweep."""
    jobs.enqueue(jobs.OBSERVE_HOST, host.pk)


@transaction.atomic
def host_set_availability(*, host: Host, availability: str, by: str = "") -> bool:
    """Cordon (nothing more is placed), drain (what runs moves away, one by one), or take back into service.

    False where it was so already. The loop does the moving: instances of a draining host are replaced first.
    """
    rows = Host.objects.filter(pk=host.pk).exclude(status=Host.Status.REMOVED)
    if not rows.exclude(availability=availability).update(availability=availability):
        return False
    words = {
        Availability.ACTIVE: ("host.uncordoned", "takes instances again"),
        Availability.CORDONED: ("host.cordoned", "takes no more instances"),
        Availability.DRAINING: ("host.draining", "is being drained: its instances move to other hosts"),
    }
    code, what = words[Availability(availability)]
    events.record(code, f"Host {host.name} {what}.", host_id=host.pk, actor=by)
    jobs.enqueue(jobs.OBSERVE_HOST, host.pk)
    return True


@transaction.atomic
def host_remove(*, host: Host, by: str = "") -> None:
    """Forget the host. Its row stays for the sake of history; its name, address and secrets go.

    Raises HostInUse, with the instances by which it is held. Their number is bounded here, for the message.
    """
    locked = Host.objects.select_for_update().get(pk=host.pk)
    held = [
        str(owner) for owner in Allocation.objects.filter(host=locked).order_by("pk").values_list("owner", flat=True)
    ]
    if held:
        raise HostInUse(
            f"{len(held)} instances are still on {locked.name}. Drain it first, and wait until it is empty.",
            instances=held[:100],
            count=len(held),
        )
    PortAllocation.objects.filter(host=locked).delete()
    Host.objects.filter(pk=locked.pk).update(
        status=Host.Status.REMOVED, tls_ca="", tls_certificate="", tls_key="", ports_held=0
    )
    events.record("host.removed", f"Host {locked.name} was removed.", host_id=locked.pk, actor=by)
