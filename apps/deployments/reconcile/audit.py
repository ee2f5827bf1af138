"""The audit: the database against itself, the engines' containers, and ZooKeeper.

It looks and changes nothing. The loop runs meanwhile, so a difference counts only if it is still there when looked at
again after a while; and of what could not be looked at nothing is said but that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from apps.core import jobs
from apps.deployments.discovery import DiscoveryUnavailable
from apps.deployments.models import App, Instance
from apps.deployments.reconcile.clients import Clients
from apps.deployments.selectors import Publication, publication_of
from apps.deployments.services.audit import Violation, database_violations
from apps.hosts.engines.base import ContainerState, Engine, EngineError, Observed
from apps.hosts.models import Host
from apps.hosts.selectors import hosts_to_observe
from gateway.contract import Address

SETTLE_S = 2.0
#: Engines asked at the same time: one that hangs must not make the audit take as many timeouts as there are hosts.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Audit:
    """``notes`` name what could not be looked at. ``hosts`` are those with a violation of their containers."""

    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hosts: set[int] = field(default_factory=set)
    discovery: bool = False

    @property
    def errors(self) -> list[Violation]:
        return [one for one in self.violations if not one.warning]


def audit(
    clients: Clients | None,
    platform: str,
    *,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Audit:
    """What does not hold, and still did not ``settle_s`` seconds later. Without ``clients`` the database only."""
    first = _look(clients, platform)
    if not first.violations:
        return first
    if settle_s > 0:
        sleep(settle_s)
    second = _look(clients, platform)
    seen = {one.key for one in first.violations}
    still = [one for one in second.violations if one.key in seen]
    return _audit(still, [*dict.fromkeys([*first.notes, *second.notes])])


def nudge(found: Audit) -> list[str]:
    """Ask the loop to look where the outside world differs. Returns what it was asked, in words."""
    for pk in sorted(found.hosts):
        jobs.enqueue(jobs.OBSERVE_HOST, pk)
    told = [f"the loop was asked to observe {len(found.hosts)} host(s)"] if found.hosts else []
    if found.discovery:
        jobs.enqueue(jobs.REBUILD_DISCOVERY)
        told.append("the loop was asked to compare every app with ZooKeeper")
    return told


def _audit(violations: list[Violation], notes: list[str]) -> Audit:
    hosts = {one.pk for one in violations if one.code.startswith("container.")}
    return Audit(violations, notes, hosts, any(one.code.startswith("discovery.") for one in violations))


def _look(clients: Clients | None, platform: str) -> Audit:
    if clients is None:
        return _audit(database_violations(), [])
    containers, notes = _containers(clients, platform)
    routes, more = _discovery(clients)
    return _audit([*database_violations(), *containers, *routes], [*notes, *more])


# Containers ---------------------------------------------------------------------------------------------------


def _containers(clients: Clients, platform: str) -> tuple[list[Violation], list[str]]:
    """``pk`` of each is the host that is to be looked at."""
    hosts = {host.pk: host for host in hosts_to_observe()}
    # What has run since before the engines were asked: what starts or ends later can't be held against them.
    expected = _expected(hosts)
    listed, notes = _listed(clients, platform, hosts)
    places: dict[str, set[int]] = defaultdict(set)
    for pk, found in listed.items():
        for one in found:
            places[one.instance].add(pk)
    violations = []
    for pk, found in listed.items():
        violations += _missing(hosts[pk], expected[pk], {one.instance: one for one in found})
        for one in found:
            violations += _stray(hosts[pk], one)
    for short_id, where in places.items():
        if len(where) > 1:
            names = ", ".join(sorted(hosts[pk].name for pk in where))
            message = f"has containers on {len(where)} hosts: {names}"
            violations += [Violation("container.twice", f"instance {short_id} ({pk})", message, pk=pk) for pk in where]
    return violations, notes


def _expected(hosts: Iterable[int]) -> dict[int, set[str]]:
    expected: dict[int, set[str]] = {pk: set() for pk in hosts}
    rows = Instance.objects.filter(released=False, status__in=Instance.WITH_CONTAINER).order_by()
    for uid, host_id in rows.values_list("uid", "host_id"):
        if host_id in expected:
            expected[host_id].add(uid.hex[:12])
    return expected


def _listed(clients: Clients, platform: str, hosts: dict[int, Host]) -> tuple[dict[int, list[Observed]], list[str]]:
    """The containers of ours by host, of the hosts that answer; and a note on each that does not."""
    engines: dict[int, Engine] = {}
    notes: dict[int, str] = {}
    for pk, host in hosts.items():
        try:
            # Here and not in a thread: it may read the database, and connections are per thread.
            engines[pk] = clients.engine(host)
        except EngineError as error:
            notes[pk] = _unseen(host, error)

    def ask(pk: int) -> list[Observed] | EngineError:
        try:
            return engines[pk].list(platform)
        except EngineError as error:
            return error

    listed = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for pk, answer in zip(engines, pool.map(ask, engines), strict=True):
            if isinstance(answer, EngineError):
                notes[pk] = _unseen(hosts[pk], answer)
            else:
                listed[pk] = answer
    return listed, list(notes.values())


def _unseen(host: Host, error: EngineError) -> str:
    return f"host {host.name} was not looked at: {error.code}"


def _missing(host: Host, expected: set[str], found: dict[str, Observed]) -> list[Violation]:
    violations = []
    for short_id in sorted(expected):
        one = found.get(short_id)
        if one is None:
            message = f"should run on {host.name} and has no container there"
            violations.append(Violation("container.missing", f"instance {short_id}", message, pk=host.pk))
        elif one.state is not ContainerState.RUNNING:
            message = f"should run on {host.name}; its container is {one.state.value}"
            violations.append(Violation("container.not_running", f"instance {short_id}", message, pk=host.pk))
    return violations


def _stray(host: Host, one: Observed) -> list[Violation]:
    """A container that no instance of its host holds. The database is asked after the engine was."""
    subject = f"container {one.name} on {host.name}"
    rows = _instances(one.instance)
    if not rows:
        return [Violation("container.unknown", subject, "belongs to no instance", pk=host.pk)]
    if all(released for released, _ in rows):
        return [Violation("container.released", subject, "belongs to an instance that was released", pk=host.pk)]
    if not any(host_id == host.pk for released, host_id in rows if not released):
        return [Violation("container.elsewhere", subject, "belongs to an instance of another host", pk=host.pk)]
    return []


def _instances(short_id: str) -> list[tuple[bool, int]]:
    """Of the instances whose containers' name this is in: whether released, and the host."""
    try:
        low, high = UUID(short_id.ljust(32, "0")), UUID(short_id.ljust(32, "f"))
    except ValueError:
        return []
    return list(Instance.objects.filter(uid__gte=low, uid__lte=high).values_list("released", "host_id"))


# ZooKeeper ----------------------------------------------------------------------------------------------------


def _discovery(clients: Clients) -> tuple[list[Violation], list[str]]:
    """ZooKeeper is read first and the database second, as its publisher does."""
    try:
        have = clients.discovery.published()
    except DiscoveryUnavailable:
        return [], ["ZooKeeper was not looked at: it does not answer"]
    apps = dict(App.objects.order_by("pk").values_list("slug", "pk"))
    violations = [
        Violation("discovery.unknown", f"app {slug}", "stands in ZooKeeper, and there is no such app")
        for slug in sorted(set(have) - set(apps))
    ]
    for slug, pk in apps.items():
        publication = publication_of(pk)
        if publication is None:
            continue
        there, want = have.get(slug, {}), _wanted(publication)
        if there != want:
            lacks = sum(1 for key, address in want.items() if there.get(key) != address)
            extra = sum(1 for key in there if key not in want)
            message = f"{lacks} of its {len(want)} addresses are not in ZooKeeper or differ, {extra} there are not its"
            violations.append(Violation("discovery.differs", f"app {slug}", message))
    return violations, []


def _wanted(publication: Publication) -> dict[tuple[str, str], str]:
    return {(one.version, one.container_id): str(Address(one.host, one.port)) for one in publication.instances}
