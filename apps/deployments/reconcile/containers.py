"""What the container of an instance is, and what follows when it can't be started or ends by itself."""

from __future__ import annotations

import re

import structlog
from django.conf import settings

from apps.deployments.models import Instance
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.services.failing import instance_broken
from apps.deployments.services.instances import instance_fail
from apps.hosts.engines.base import ContainerSpec, EngineError, ImageRef, Limits, Observed

log = structlog.get_logger(__name__)

_PULL_FAILED = {
    "image.denied": "the registry refused the pull of its image.",
    "image.not_found": "the registry has no such image any more.",
    "image.unavailable": "its image could not be pulled from the registry.",
}
#: IPv4 and IPv6, with a port perhaps.
_ADDRESS = re.compile(
    r"(?:\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b|\[?(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}\]?)(?::[0-9]{1,5})?"
)


class StartOverdue(EngineError):
    """Its time to start is over, whatever the engine would say to another try."""

    code = "engine.start_overdue"
    retryable = False


def spec_of(instance: Instance) -> ContainerSpec:
    """What the container of this instance is: a function of its release, its host and its port."""
    release = instance.replica_set.release
    plan = instance.app.tenant.plan
    return ContainerSpec(
        platform=settings.PLATFORM_ID,
        tenant=instance.app.tenant.slug,
        app=instance.app.slug,
        release=release.number,
        instance=instance.short_id,
        image=ImageRef(settings.REGISTRY_FOR_HOSTS, release.version.repository.name, release.version.digest),
        container_port=release.container_port,
        host_ip=instance.host.address,
        host_port=instance.port,
        limits=Limits(
            memory_mb=release.memory_mb,
            cpu_millis=release.cpu_millis,
            pids=plan.pids,
            capabilities=tuple(plan.capabilities),
        ),
        env=release.env,
        command=tuple(release.command),
        stop_signal=release.stop_signal,
    )


def start_failed(instance: Instance, error: EngineError) -> bool:
    """What trying again may mend is tried again until the deadline; the rest ends at once."""
    if error.retryable and not passed(instance):
        # The sweep tries again.
        log.warning("start_retry", instance=str(instance.uid), code=error.code, error=str(error))
        return False
    if error.code.startswith(("engine.", "host.")):
        # Its text may name hosts and addresses, which are the platform's.
        log.error("start_failed", instance=str(instance.uid), code=error.code, error=str(error))
        reason = "The platform's host could not start it. Another try goes to another host if there is one."
    elif error.code in _PULL_FAILED:
        # A registry's text names its own address, and that of the host that asked.
        log.error("start_failed", instance=str(instance.uid), code=error.code, error=str(error))
        reason = f"It could not be started: {_PULL_FAILED[error.code]}"
    else:
        reason = f"It could not be started: {_without_addresses(str(error))}"
    return instance_fail(instance=instance, code=error.code, reason=reason)


def _without_addresses(text: str) -> str:
    """What the engine says of the image and its command is the tenant's; addresses in it are the platform's."""
    return _ADDRESS.sub("…", text.replace(settings.REGISTRY_FOR_HOSTS, settings.REGISTRY_PUBLIC))


def exited(instance: Instance, observed: Observed) -> bool:
    """Its container ended by itself: what its release says is done."""
    if observed.oom_killed:
        memory = instance.replica_set.release.memory_mb
        code, reason = "instance.out_of_memory", f"Killed: it used more than its {memory} MiB of memory."
    else:
        code, reason = "instance.exited", f"Its process ended by itself with exit code {observed.exit_code}."
    return instance_broken(
        instance=instance,
        code=code,
        reason=reason,
        exit_code=observed.exit_code,
        container_id=observed.container_id,
    )
