"""One instance: from placed to running to ready, or on its way out."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import timedelta

import structlog
from django.conf import settings
from django.db.models import QuerySet

from apps.core import compiled, jobs
from apps.core.clock import now
from apps.core.duties import away
from apps.core.errors import PlatformError
from apps.core.failpoints import reached
from apps.core.leases import held
from apps.deployments.checks import Kind, readiness_of
from apps.deployments.discovery import DiscoveryUnavailable
from apps.deployments.models import Instance
from apps.deployments.reconcile.capsules import capture
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.probes import ask_once, never_ready
from apps.deployments.reconcile.routes import gateways_awaited, publish
from apps.deployments.selectors import crowded, moved_on, next_to_start, next_to_stop, release_of, stopping_enough
from apps.deployments.services.failing import instance_broken, instance_cleared
from apps.deployments.services.instances import (
    instance_fail,
    instance_ready,
    instance_released,
    instance_started,
    instance_starting,
    instance_unrouted,
)
from apps.deployments.services.routing import served_by_all
from apps.hosts.engines.base import (
    ContainerSpec,
    ContainerState,
    EngineError,
    EngineUnreachable,
    ImageRef,
    Limits,
    Observed,
)
from apps.registry.services.tokens import pull_token

log = structlog.get_logger(__name__)
Status = Instance.Status

#: How long one pass waits for readiness, or for gateways, before it gives the worker back. Seconds.
PATIENCE_S = 2.0
POLL_S = 0.05
#: How often a container that does not answer yet is looked at, whether it still runs. Seconds.
LOOK_S = 0.4
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


#: After these moves what was read is still right, but for what the move changed in it too; a move by others meanwhile
#: makes the next swap fail, which ends the round.
_FOLLOWED = frozenset({(Status.PLACED, Status.STARTING), (Status.STARTING, Status.RUNNING)})


def reconcile_instance(pk: int, clients: Clients) -> None:
    """Move the instance as far as it goes now. While another worker does that, leave it to that one."""
    last = ""
    while True:
        with held(Instance, pk) as mine:
            if not mine:
                return
            instance = _read(pk)
            if instance is None or instance.released:
                return
            last = instance.status
            while _step(instance, clients):
                if (last, instance.status) not in _FOLLOWED:
                    instance = _read(pk)
                    if instance is None or instance.released:
                        return
                last = instance.status
            last = instance.status
        # A move by others whose nudge found the lease taken is seen here, after the lease was given back.
        if not moved_on(pk, last):
            return


def _read(pk: int) -> Instance | None:
    instance = next(iter(compiled.objects(_with_all, {"pk": pk})), None)
    if instance is not None:
        instance.replica_set.release = release_of(instance.replica_set.release_id)
    return instance


def _with_all(*, pk: int) -> QuerySet[Instance]:
    return Instance.objects.select_related("app__tenant__plan", "host__cluster", "replica_set").filter(pk=pk).order_by()


def _step(instance: Instance, clients: Clients) -> bool:
    """One move; True if the next may follow at once."""
    status = Status(instance.status)
    if status is Status.PLACED:
        return _place(instance, clients)
    if status is Status.STARTING:
        return _start(instance, clients)
    if status is Status.RUNNING:
        return _await_ready(instance, clients)
    if status in Instance.LEAVING:
        return _retire(instance, clients)
    return False


def _place(instance: Instance, clients: Clients) -> bool:
    if instance.container_id:
        return _clear(instance, clients)
    if instance.retry_at is not None and now() < instance.retry_at:
        return False
    begun = instance_starting(instance=instance)
    reached("instance.starting", instance.app.slug)
    return begun


def _clear(instance: Instance, clients: Clients) -> bool:
    """To be started anew where it is: its old container goes first, and before that its route."""
    if not _unrouted(instance, clients):
        return False
    if _removed(instance, clients, grace=0):
        return instance_cleared(instance=instance)
    late = now() >= instance.status_since + timedelta(seconds=settings.START_DEADLINE_S) and not away()
    if instance.host.silent or not late:
        return False
    return _start_failed(instance, StartOverdue("its old container could not be removed in time"))


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


def _start(instance: Instance, clients: Clients) -> bool:
    if passed(instance):
        return _start_failed(instance, StartOverdue("it was not started in time"))
    if instance.host.silent or crowded(instance):
        return False
    spec = spec_of(instance)
    # How long it took to get here is what benchmarks/deploy.py reads these lines for.
    log.info("engine_call", verb="ensure", app=spec.app, release=spec.release, instance=str(instance.uid))
    try:
        observed = clients.engine(instance.host).ensure(spec, pull_token=pull_token(spec.image.repository))
    except EngineError as error:
        return _start_failed(instance, error)
    except PlatformError as error:
        log.error("start_retry", instance=str(instance.uid), code=error.code, error=error.detail)
        return False
    reached("container.made", instance.app.slug)
    for waiting in next_to_start(instance.host_id):
        jobs.enqueue(jobs.RECONCILE_INSTANCE, waiting)
    if observed.state is ContainerState.EXITED:
        return exited(instance, observed)
    started = instance_started(instance=instance, container_id=observed.container_id)
    reached("instance.running", instance.app.slug)
    return started


def _start_failed(instance: Instance, error: EngineError) -> bool:
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


def _await_ready(instance: Instance, clients: Clients) -> bool:
    """Poll fast for a moment, since most apps are ready within it; then leave it to the probe pass."""
    check = readiness_of(instance.replica_set.release)
    if check.kind is Kind.COMMAND and (instance.host.silent or check.timeout_s > PATIENCE_S):
        return False
    # One that takes its minute to answer is the probe pass's to wait for: here it would keep one of a few workers.
    check = replace(check, timeout_s=min(check.timeout_s, max(1, int(PATIENCE_S))))
    began = looked = time.monotonic()
    while True:
        wrong = ask_once(instance, check, clients)
        if wrong is None:
            reached("instance.answered", instance.app.slug)
            instance_ready(instance=instance)
            reached("instance.ready", instance.app.slug)
            return False
        if passed(instance):
            return never_ready(instance, check, wrong)
        at = time.monotonic()
        if at - looked >= LOOK_S:
            looked = at
            if _ended(instance, clients):
                return True
        if at - began >= PATIENCE_S:
            return False
        time.sleep(LOOK_S if check.kind is Kind.COMMAND else POLL_S)


def _ended(instance: Instance, clients: Clients) -> bool:
    """Whether its container ended by itself; what can't be seen did not."""
    try:
        observed = clients.engine(instance.host).inspect(spec_of(instance).name)
    except EngineError:
        return False
    return observed is not None and observed.state is ContainerState.EXITED and exited(instance, observed)


def _retire(instance: Instance, clients: Clients) -> bool:
    """Unpublish, wait for the gateways, stop, remove, free: in this order, each step repeatable."""
    if not _unrouted(instance, clients) or (instance.was_routed and not _answered_all(instance, clients)):
        return False
    if instance.status == Status.LOST:
        capture(instance, clients)
        # Nobody is there to be asked. The host is not ready again before its container is gone.
        instance_released(instance=instance)
        return False
    grace = instance.replica_set.release.stop_grace_s if instance.status == Status.DRAINING else 0
    if grace and stopping_enough(instance):
        return False
    if _removed(instance, clients, grace):
        instance_released(instance=instance)
        reached("instance.released", instance.app.slug)
        if instance.rebuild_as_id is not None:
            reached("place.handed_over", instance.app.slug)
        for waiting in next_to_stop(instance) if grace else ():
            jobs.enqueue(jobs.RECONCILE_INSTANCE, waiting)
    return False


def _unrouted(instance: Instance, clients: Clients) -> bool:
    """Whether no gateway routes to it any more; unpublishes it first."""
    if not instance.was_routed:
        return True
    if not instance.unrouted_zxid:
        receipt = publish(instance.app_id, instance.app.slug, clients)
        if receipt is None:
            # Not unpublished: users may still be on their way to it, so it stays. The sweep comes again.
            return False
        reached("instance.unpublished", instance.app.slug)
        instance_unrouted(instance=instance, epoch=receipt.epoch, zxid=receipt.zxid)
        reached("instance.unrouted", instance.app.slug)
        instance.refresh_from_db(fields=["unrouted_epoch", "unrouted_zxid", "unrouted_at", "deadline_at"])
    if not _gateways_let_go(instance, clients):
        return False
    reached("gateways.let_go", instance.app.slug)
    return True


def _removed(instance: Instance, clients: Clients, grace: int) -> bool:
    """Whether its container is gone from its host now."""
    if instance.host.silent:
        # Asking it would only keep this worker waiting. The sweep comes again.
        return False
    capture(instance, clients)
    try:
        clients.engine(instance.host).remove(spec_of(instance).name, grace_s=grace)
    except EngineUnreachable as error:
        log.warning("remove_waits", instance=str(instance.uid), host=instance.host.name, error=str(error))
        return False
    except EngineError as error:
        log.error("remove_failed", instance=str(instance.uid), code=error.code, error=str(error))
        return False
    reached("container.removed", instance.app.slug)
    return True


def _answered_all(instance: Instance, clients: Clients) -> bool:
    """Whether what it was asked before gateways let go of it is answered. What no gateway can tell is not waited for.

    Only of one that is well: of the others no answer is to be expected.
    """
    if instance.status != Status.DRAINING:
        return True
    until = (instance.unrouted_at or now()) + timedelta(seconds=settings.DRAIN_REQUESTS_S)
    patience = time.monotonic() + PATIENCE_S
    while now() < until:
        try:
            states = clients.discovery.gateways()
        except DiscoveryUnavailable:
            return True
        told = clients.traffic.of(instance.app.slug, states)
        if not any(one.busy.get(instance.container_id) for one in told.values()):
            return True
        if time.monotonic() >= patience:
            return False
        time.sleep(2 * POLL_S)
    log.info("drain_cut", instance=str(instance.uid))
    return True


def _gateways_let_go(instance: Instance, clients: Clients) -> bool:
    """Whether no live gateway routes to it any more; gives up waiting at the deadline (its port stays fenced)."""

    def enough() -> bool:
        if served_by_all(epoch=instance.unrouted_epoch, zxid=instance.unrouted_zxid):
            return True
        overdue = passed(instance)
        if overdue:
            log.warning("gateways_overdue", instance=str(instance.uid), zxid=instance.unrouted_zxid)
        return overdue

    return gateways_awaited(clients, enough, patience_s=PATIENCE_S, poll_s=POLL_S)
