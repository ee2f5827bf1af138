"""What instances answered to their checks, noted: what is ready gets traffic, what is not alive is dealt with.

The database is written only where an answer changes something. Most answers change nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import F

from apps.core.clock import now
from apps.deployments.checks import Check, Kind, check_of
from apps.deployments.models import Instance, Release
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.commands import Command, run
from apps.deployments.reconcile.deadlines import passed
from apps.deployments.reconcile.logtext import masked
from apps.deployments.reconcile.probing import Target
from apps.deployments.services.failing import (
    COUNTED,
    UNHEALTHY,
    answers_counted,
    instance_broken,
    instance_unready,
    threshold,
)
from apps.deployments.services.instances import instance_ready
from apps.hosts.engines.base import EngineError, container_name
from apps.hosts.models import Host

#: So far may the clock of whoever looks at hosts be from that of whoever probes. Three checks take longer. Seconds.
CLOCKS_APART_S = 2
#: Rows that one statement changes.
AT_ONCE = 500

log = structlog.get_logger(__name__)
Status = Instance.Status
_SILENT = frozenset({Host.Status.SUSPECT, Host.Status.DOWN, Host.Status.REMOVED})
_COLUMNS = ("pk", "status", "deadline_at", "failures", "live_failures", "port", "host_id", "replica_set_id")


@dataclass(slots=True)
class Asked:
    """An instance as far as its checks go."""

    row: tuple[Any, ...]
    pk: int
    status: str
    deadline_at: datetime | None
    failures: int
    live_failures: int
    port: int
    host_id: int
    address: str
    silent: bool
    release: Checks

    @property
    def starting(self) -> bool:
        """Not ready yet since it was started: one that lost its readiness has no deadline."""
        return self.status == Status.RUNNING and self.deadline_at is not None


@dataclass(frozen=True, slots=True)
class Checks:
    """What the instances of a replica set are asked."""

    readiness: Check
    liveness: Check | None
    container_port: int
    replica_set: int = 0


def asked_now(
    known: Mapping[int, Asked], checks: dict[int, Checks], *, shard: int = 0, shards: int = 1
) -> dict[int, Asked]:
    """Every instance that runs, of this shard. What did not change since ``known`` is taken from there.

    ``checks``: by replica set, kept by the caller, since a release never changes.
    """
    rows = Instance.objects.filter(released=False, status__in=Instance.WITH_CONTAINER).order_by()
    if shards > 1:
        rows = rows.annotate(shard=F("pk") % shards).filter(shard=shard)
    found = list(rows.values_list(*_COLUMNS))
    # Without joins: hosts and releases are few, and an address costs more to read than all the rest of a row.
    hosts = {
        pk: (address, status in _SILENT) for pk, address, status in Host.objects.values_list("pk", "address", "status")
    }
    missing = sorted({row[-1] for row in found} - checks.keys())
    for start in range(0, len(missing), AT_ONCE):
        some = Release.objects.filter(replica_set__in=missing[start : start + AT_ONCE])
        columns = ("replica_set", "health_path", "readiness", "liveness", "container_port")
        for pk, path, ready, live, port in some.values_list(*columns):
            checks[pk] = Checks(check_of(ready, path), check_of(live, "") if live else None, port, pk)
    now_: dict[int, Asked] = {}
    for row in found:
        before, host = known.get(row[0]), hosts.get(row[-2])
        if host is None or row[-1] not in checks:
            continue  # made since: the next reading has it
        if before is None or before.row != row or (before.address, before.silent) != host:
            pk, status, deadline_at, failures, live_failures, port, host_id, replica_set = row
            known_as = (pk, status, deadline_at, failures, live_failures, port, host_id)
            before = Asked(row, *known_as, *host, checks[replica_set])
        now_[row[0]] = before
    return now_


def command_of(pk: int, asked_as: int, check: Check, clients: Clients) -> tuple[Command, Any] | None:
    """What to run and by which engine; None where the instance is gone or its engine can't be used."""
    row = Instance.objects.filter(pk=pk, released=False).select_related("host__cluster", "app").first()
    if row is None:
        return None
    try:
        engine = clients.engine(row.host)
    except EngineError as error:
        log.warning("check_unasked", instance=str(row.uid), host=row.host.name, error=str(error))
        return None
    name = container_name(settings.PLATFORM_ID, row.app.slug, row.short_id)
    return Command(asked_as, row.host_id, name, check, row.app.tenant_id), engine


class Notebook:
    """Answers that came, noted a few at a time: the same for many instances in one statement."""

    def __init__(self) -> None:
        self._counts: dict[tuple[bool, int, int, str | None, bool], list[int]] = defaultdict(list)
        self._over: list[tuple[Asked, Check, bool, Wrong, int]] = []
        self._secrets: dict[int, list[str]] = {}

    def note(self, asked: Asked, check: Check, live: bool, wrong: Wrong | None) -> None:
        if wrong is not None and not wrong.proven:
            return
        acts = live or asked.release.liveness is None
        if asked.status == Status.RUNNING and not live:
            self._not_ready(asked, check, wrong)
            return
        was = asked.live_failures if live else asked.failures
        count = min(was + 1, COUNTED) if wrong is not None else 0
        if count != was:
            text = None if wrong is None else self._transcript(asked.release, check, wrong)
            self._counts[live, was, count, text, acts].append(asked.pk)
            asked.row = ()  # so that the next reading takes what the database has, whether this is written or not
            if live:
                asked.live_failures = count
            else:
                asked.failures = count
        if wrong is not None and count >= threshold(check):
            self._over.append((asked, check, live, wrong, count))

    def _not_ready(self, asked: Asked, check: Check, wrong: Wrong | None) -> None:
        """It was started, or lost its readiness a while ago: what counts is a good answer, or the deadline."""
        if wrong is None:
            self._guarded(asked.pk, self._ready, asked)
        elif asked.deadline_at is not None and now() >= asked.deadline_at and not asked.silent:
            self._guarded(asked.pk, self._overdue, asked, check, wrong)

    @staticmethod
    def _ready(asked: Asked) -> None:
        row = _whole(asked.pk)
        if row is not None and instance_ready(instance=row):
            asked.status, asked.deadline_at, asked.failures = Status.HEALTHY, None, 0

    @staticmethod
    def _overdue(asked: Asked, check: Check, wrong: Wrong) -> None:
        row = _whole(asked.pk)
        # It may have become ready, or have been started anew, while the answer was on its way.
        if row is not None and row.status == Status.RUNNING and passed(row):
            never_ready(row, check, wrong)

    def _transcript(self, release: Checks, check: Check, wrong: Wrong) -> str:
        secrets: list[str] = []
        if wrong.seen:
            pk = release.replica_set
            if pk not in self._secrets:
                row = Release.objects.filter(replica_set=pk).only("env", "env_readable").first()
                self._secrets[pk] = row.secrets if row else []
            secrets = self._secrets[pk]
        return transcript(check, release.container_port, wrong, secrets)

    def flush(self) -> None:
        """Write what was noted, and do what follows from it."""
        counts, self._counts = self._counts, defaultdict(list)
        for (live, was, count, text, acts), pks in counts.items():
            for start in range(0, len(pks), AT_ONCE):
                some = pks[start : start + AT_ONCE]
                self._guarded(some[0], self._count, some, live, was, count, text, acts)
        over, self._over = self._over, []
        for asked, check, live, wrong, count in over:
            self._guarded(asked.pk, _over_threshold, asked, check, live, wrong, count)

    @staticmethod
    def _count(pks: list[int], live: bool, was: int, count: int, text: str | None, acts: bool) -> None:
        answers_counted(pks=pks, live=live, was=was, count=count, last_check=text, acts=acts)

    @staticmethod
    def _guarded(pk: int, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except DatabaseError as error:
            # One row's trouble is not the others'. What was counted in vain is read anew soon.
            log.error("probe_unnoted", instance=pk, error=str(error))


def _over_threshold(asked: Asked, check: Check, live: bool, wrong: Wrong, count: int) -> None:
    if asked.silent:
        # What its host's engine does not say either proves nothing; a host that is down is another's business.
        return
    row = _whole(asked.pk)
    if row is None or row.status not in Instance.WITH_CONTAINER:
        return
    if (row.live_failures if live else row.failures) < threshold(check):
        # It was started anew meanwhile, or another pass had a good answer: what was counted is of before.
        return
    if not wrong.heard and _cut_off(row, check, live, count):
        log.warning("probe_blind", instance=str(row.uid), host=row.host.name)
        return
    reason = f"{count} checks in a row failed, the last: {wrong.reason}."
    if not live and asked.release.liveness is not None:
        if instance_unready(instance=row, reason=reason):
            asked.status, asked.deadline_at, asked.failures = Status.RUNNING, None, 0
        return
    instance_broken(instance=row, code=UNHEALTHY, reason=reason)


def _whole(pk: int) -> Instance | None:
    rows = Instance.objects.select_related("host", "app", "replica_set__release")
    return rows.filter(pk=pk, released=False).first()


def _cut_off(instance: Instance, check: Check, live: bool, count: int) -> bool:
    """Whether its host was not heard of either since its checks began to fail: then their silence proves nothing."""
    since, seen = instance.failing_since, instance.host.last_seen_at
    if live:
        since = now() - timedelta(seconds=(count - 1) * check.interval_s)
    return since is None or seen is None or seen <= since + timedelta(seconds=CLOCKS_APART_S)


def transcript(check: Check, container_port: int, wrong: Wrong, secrets: Sequence[str]) -> str:
    """What was asked and what came back, for the instance's tenant; who may only look reads it too."""
    return f"{check.asks(container_port)}: {wrong.reason}\n{masked(wrong.seen, secrets, cut=True)}".strip()


def never_ready(instance: Instance, check: Check, wrong: Wrong) -> bool:
    """Its start period is over without a good answer."""
    release = instance.replica_set.release
    text = transcript(check, release.container_port, wrong, release.secrets)
    return instance_broken(
        instance=instance,
        code="instance.never_ready",
        reason=f"It did not become ready in time: {text.splitlines()[0]}.",
        last_check=text,
    )


def ask_once(instance: Instance, check: Check, clients: Clients) -> Wrong | None:
    """One question, for an instance whose host is at hand."""
    if check.kind is not Kind.COMMAND:
        target = Target(instance.pk, instance.host.address, instance.port, check)
        return clients.probe([target])[instance.pk]
    prepared = command_of(instance.pk, instance.pk, check, clients)
    return Wrong("it could not be asked", proven=False) if prepared is None else run(prepared[1], prepared[0])


def probe_pass(clients: Clients) -> int:
    """Ask every instance that runs all that it is ever asked, and note the answers. Returns how many were asked.

    For tests and by hand: it waits for the slowest. The workers probe by ``shards.probe_shard``.
    """
    all_ = asked_now({}, {})
    notebook = Notebook()
    for live in (False, True):
        questions = list(_questions(all_.values(), live))
        networked = [
            Target(one.pk, one.address, one.port, check) for one, check in questions if check.kind is not Kind.COMMAND
        ]
        answers = clients.probe(networked) if networked else {}
        for one, check in questions:
            if check.kind is Kind.COMMAND and not one.silent:
                prepared = command_of(one.pk, one.pk, check, clients)
                answers[one.pk] = run(prepared[1], prepared[0]) if prepared else Wrong("unasked", proven=False)
            if one.pk in answers:
                notebook.note(one, check, live, answers[one.pk])
        notebook.flush()
    return len(all_)


def _questions(all_: Iterable[Asked], live: bool) -> Iterable[tuple[Asked, Check]]:
    for one in all_:
        check = one.release.liveness if live else one.release.readiness
        if check is not None and not (live and one.starting):
            yield one, check
