"""Each filter returns the reason why a host can't take an instance, or None. The tuple is the whole list.

The database filters by the same rules before anything is loaded (apps.deployments.services.candidates); a test holds
the two against each other. Reasons are shown to tenants: they name no host, no other tenant and no number of theirs.
"""

from __future__ import annotations

from collections.abc import Callable

from apps.deployments.scheduler.types import Candidate, Request

Filter = Callable[[Candidate, Request], str | None]
DEDICATED = "dedicated to another tenant"
OTHER_PLATFORM = "the image is for another platform"


def status(host: Candidate, request: Request) -> str | None:
    return None if host.status == "ready" else "not ready"


def availability(host: Candidate, request: Request) -> str | None:
    return None if host.availability == "active" else host.availability


def disk(host: Candidate, request: Request) -> str | None:
    return "its disk is nearly full" if host.disk_pressure else None


def dedicated(host: Candidate, request: Request) -> str | None:
    return None if host.dedicated_to in (None, request.tenant_id) else DEDICATED


def labels(host: Candidate, request: Request) -> str | None:
    for constraint in request.rules.constraints:
        if not constraint.holds(host.labels):
            return f"label: not {constraint}"
    return None


def engine(host: Candidate, request: Request) -> str | None:
    older = host.engine < request.rules.min_engine
    return f"engine older than {request.rules.min_engine_text}" if older else None


def platform(host: Candidate, request: Request) -> str | None:
    unknown = not request.platforms or not host.platform[0]
    return None if unknown or host.platform in request.platforms else OTHER_PLATFORM


def beside(host: Candidate, request: Request) -> str | None:
    for app in request.rules.beside:
        if app not in host.neighbours:
            return f"does not run {app}"
    return None


def apart(host: Candidate, request: Request) -> str | None:
    held = request.rules.one_per_host and host.own_of_release > 0
    return "runs one of this release already" if held else None


def memory(host: Candidate, request: Request) -> str | None:
    return None if host.memory_mb_free >= request.memory_mb else "not enough memory"


def cpu(host: Candidate, request: Request) -> str | None:
    return None if host.cpu_millis_free >= request.cpu_millis else "not enough CPU"


def ports(host: Candidate, request: Request) -> str | None:
    return None if host.ports_free > 0 else "no free port"


#: In the order in which reasons are told: whether the host is there at all, whether it is meant, whether it has room.
#: Of a host that is another tenant's nothing else is told.
FILTERS: tuple[Filter, ...] = (
    dedicated,
    status,
    availability,
    disk,
    labels,
    engine,
    platform,
    beside,
    apart,
    memory,
    cpu,
    ports,
)


def refusal(host: Candidate, request: Request) -> str | None:
    """The first reason against this host."""
    for refuse in FILTERS:
        if reason := refuse(host, request):
            return reason
    return None
