"""From placed to running to ready: the straight way, for one instance or for several of a host together.

Together, since most of what an instance costs on its way is not its own: a message, a lease, a transaction. What leaves
the straight way (it ended, it was drained meanwhile) is left to ``reconcile_instance``, one by one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ALL_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import groupby

import structlog

from apps.core import jobs
from apps.core.clock import now
from apps.core.errors import PlatformError
from apps.core.failpoints import reached
from apps.core.leases import held_together
from apps.deployments.checks import Check, Kind, readiness_of
from apps.deployments.models import Instance
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.containers import StartOverdue, exited, spec_of, start_failed
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.probes import ask_once, never_ready
from apps.deployments.reconcile.probing import Target
from apps.deployments.selectors import crowded, leased, moved_on, next_to_start
from apps.deployments.services.images import unfit
from apps.deployments.services.instances import (
    instance_fail,
    instances_ready,
    instances_started,
    instances_starting,
)
from apps.hosts.engines.base import ContainerState, EngineError, EngineUnreachable, Observed
from apps.registry.services.tokens import pull_token

log = structlog.get_logger(__name__)
Status = Instance.Status

#: How long one pass waits for readiness before it gives the worker back. Seconds.
PATIENCE_S = 2.0
POLL_S = 0.05
#: How often a container that does not answer yet is looked at, whether it still runs. Seconds.
LOOK_S = 0.4
#: So many of a pass are started at the same time.
AT_ONCE = 4
#: What was started is noted so often while others of the pass are being started. Seconds.
NOTED_S = 0.05


def start_instances(pks: Sequence[int], clients: Clients) -> None:
    """Start those of them that nobody else is at. They are of one host: where that hangs, so does the pass."""
    with held_together(Instance, pks) as owner:
        instances = leased(pks, owner)
        turned = {one.pk for one in forward(instances, clients)}
        left = {one.pk: one.status for one in instances}
    for pk in turned.union(moved_on(left)) if left else ():
        jobs.enqueue(jobs.RECONCILE_INSTANCE, pk)


def forward(instances: Sequence[Instance], clients: Clients) -> list[Instance]:
    """Move instances of one host as far as they go now; their leases are held. Returns those that left the straight
    way: what they are now is to be read anew.
    """
    at = now()
    fresh = [one for one in instances if one.status == Status.PLACED and not one.container_id]
    for one in instances_starting(instances=[one for one in fresh if one.retry_at is None or one.retry_at <= at]):
        reached("instance.starting", one.app.slug)
    turned = [one for one in instances if one.status == Status.PLACED and one.container_id]
    turned += _started([one for one in instances if one.status == Status.STARTING], clients)
    turned += _ready([one for one in instances if one.status == Status.RUNNING and one not in turned], clients)
    return turned


def _started(instances: Sequence[Instance], clients: Clients) -> list[Instance]:
    """Their containers, made or found. Returns those that failed or ended."""
    turned, waiting = [], []
    # Of one host, and nearly always of one version: it is asked about once.
    versions = {one.replica_set.release.version_id: one.host for one in instances}
    misfits = {version: unfit(version, host) for version, host in versions.items()}
    for one in instances:
        if passed(one):
            if start_failed(one, StartOverdue("it was not started in time")):
                turned.append(one)
        elif wrong := misfits[one.replica_set.release.version_id]:
            # Nobody knew when it was placed: the image was read from the registry since.
            if instance_fail(instance=one, code=wrong[0], reason=wrong[1]):
                turned.append(one)
        elif not one.host.silent:
            waiting.append(one)
    if not waiting or crowded(waiting[0]):
        return turned
    turned += _Starts(waiting, clients).run()
    if others := next_to_start(waiting[0].host_id):
        jobs.enqueue(jobs.START_INSTANCES, *others)
    return turned


class _Starts:
    """Containers of one host under way."""

    def __init__(self, instances: Sequence[Instance], clients: Clients) -> None:
        self._waiting = list(reversed(instances))
        self._clients = clients
        self._under_way: dict[Future[Observed], Instance] = {}
        self._turned: list[Instance] = []
        self._tokens: dict[str, str] = {}

    def run(self) -> list[Instance]:
        if len(self._waiting) == 1:
            one = self._waiting.pop()
            alone: Future[Observed] = Future()
            self._under_way[alone] = one
            try:
                alone.set_result(self._ensure(one, self._token(one)))
            except Exception as error:
                alone.set_exception(error)
            self._note([alone])
            return self._turned
        pool = self._clients.pool
        while self._waiting or self._under_way:
            self._submit(pool)
            done, _ = wait(self._under_way, NOTED_S, ALL_COMPLETED)
            self._note(done)
        return self._turned

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        while self._waiting and len(self._under_way) < AT_ONCE:
            one = self._waiting.pop()
            try:
                token = self._token(one)
            except PlatformError as error:
                self._later(one, error.code, error.detail)
                continue
            self._under_way[pool.submit(self._ensure, one, token)] = one

    def _token(self, instance: Instance) -> str:
        """One for what is started together: for its repository only."""
        name = spec_of(instance).image.repository
        if name not in self._tokens:
            self._tokens[name] = pull_token(name)
        return self._tokens[name]

    def _ensure(self, instance: Instance, token: str) -> Observed:
        """No database here: it may be in a thread of the pool."""
        spec = spec_of(instance)
        # How long it took to get here is what benchmarks/deploy.py reads these lines for.
        log.info("engine_call", verb="ensure", app=spec.app, release=spec.release, instance=str(instance.uid))
        return self._clients.engine(instance.host).ensure(spec, pull_token=token)

    def _note(self, done: Sequence[Future[Observed]] | set[Future[Observed]]) -> None:
        running: dict[Instance, str] = {}
        for future in done:
            one = self._under_way.pop(future)
            try:
                observed = future.result()
            except EngineError as error:
                if isinstance(error, EngineUnreachable):
                    # The others' turn comes with the sweep: each would wait as long.
                    self._waiting.clear()
                if start_failed(one, error):
                    self._turned.append(one)
                continue
            except PlatformError as error:
                self._later(one, error.code, error.detail)
                continue
            reached("container.made", one.app.slug)
            if observed.state is not ContainerState.EXITED:
                running[one] = observed.container_id
            elif exited(one, observed):
                self._turned.append(one)
        for one in instances_started(containers=running) if running else ():
            reached("instance.running", one.app.slug)

    def _later(self, instance: Instance, code: str, detail: str) -> None:
        log.error("start_retry", instance=str(instance.uid), code=code, error=detail)


def _ready(instances: Sequence[Instance], clients: Clients) -> list[Instance]:
    """Poll fast for a moment, since most apps are ready within it; then leave it to the probe pass."""
    waiting = [(one, check) for one in instances if (check := _asked(one)) is not None]
    turned: list[Instance] = []
    began = looked = time.monotonic()
    while waiting:
        answers = _answers(waiting, clients)
        _note_ready([one for one, _ in waiting if answers[one.pk] is None])
        waiting = [(one, check) for one, check in waiting if answers[one.pk] is not None]
        at = time.monotonic()
        looking = at - looked >= LOOK_S
        looked = at if looking else looked
        for one, check in waiting:
            wrong = answers[one.pk]
            if (passed(one) and wrong is not None and never_ready(one, check, wrong)) or (
                looking and _ended(one, clients)
            ):
                turned.append(one)
        waiting = [(one, check) for one, check in waiting if one not in turned]
        if at - began >= PATIENCE_S:
            break
        if waiting:
            time.sleep(LOOK_S if any(check.kind is Kind.COMMAND for _, check in waiting) else POLL_S)
    return turned


def _asked(instance: Instance) -> Check | None:
    """What it is asked now; None for what is the probe pass's to wait for."""
    check = readiness_of(instance.replica_set.release)
    if check.kind is Kind.COMMAND and (instance.host.silent or check.timeout_s > PATIENCE_S):
        return None
    # One that takes its minute to answer would keep one of a few workers.
    return replace(check, timeout_s=min(check.timeout_s, max(1, int(PATIENCE_S))))


def _answers(waiting: Sequence[tuple[Instance, Check]], clients: Clients) -> dict[int, Wrong | None]:
    networked = [
        Target(one.pk, one.host.address, one.port, check) for one, check in waiting if check.kind is not Kind.COMMAND
    ]
    answers = dict(clients.probe(networked)) if networked else {}
    for one, check in waiting:
        if check.kind is Kind.COMMAND:
            answers[one.pk] = ask_once(one, check, clients)
    return answers


def _note_ready(well: Sequence[Instance]) -> None:
    for one in well:
        reached("instance.answered", one.app.slug)
    for _, group in groupby(sorted(well, key=lambda one: one.app_id), key=lambda one: one.app_id):
        for one in instances_ready(instances=list(group)):
            reached("instance.ready", one.app.slug)


def _ended(instance: Instance, clients: Clients) -> bool:
    """Whether its container ended by itself; what can't be seen did not."""
    try:
        observed = clients.engine(instance.host).inspect(spec_of(instance).name)
    except EngineError:
        return False
    return observed is not None and observed.state is ContainerState.EXITED and exited(instance, observed)
