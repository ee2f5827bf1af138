"""Each filter returns the reason why a host can't take an instance, or None. The tuple is the whole list."""

from __future__ import annotations

from collections.abc import Callable

from apps.deployments.scheduler.types import Candidate, Request

Filter = Callable[[Candidate, Request], str | None]


def status(host: Candidate, request: Request) -> str | None:
    return None if host.ready else "not ready"


def memory(host: Candidate, request: Request) -> str | None:
    return None if host.memory_mb_free >= request.memory_mb else "not enough memory"


def cpu(host: Candidate, request: Request) -> str | None:
    return None if host.cpu_millis_free >= request.cpu_millis else "not enough CPU"


def ports(host: Candidate, request: Request) -> str | None:
    return None if host.free_port() is not None else "no free port"


FILTERS: tuple[Filter, ...] = (status, memory, cpu, ports)


def refusal(host: Candidate, request: Request) -> str | None:
    """The first reason against this host."""
    for refuse in FILTERS:
        if reason := refuse(host, request):
            return reason
    return None
