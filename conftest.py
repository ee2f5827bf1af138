"""Fixtures that every test may use: people, tenants, a cluster in memory, and a loop that can be stepped."""

from __future__ import annotations

import gc
import itertools
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from django.core.cache import cache

from gateway.contract import (
    ANSWER_BOUNDS_MS,
    ANSWER_BUCKETS,
    STATUS_CLASSES,
    AppTraffic,
    ContainerTraffic,
    GatewayState,
)
from stack.interrupts import terminate_as_interrupt


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """A run that is ended by a signal takes down what it started; in the background too, where Ctrl-C is ignored."""
    # What was imported stays to the end, and Django makes garbage by the thousand: looking for it takes time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    with terminate_as_interrupt():
        return (yield)


@pytest.fixture(autouse=True)
def nudges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int | str, ...]]]:
    """What would have been sent to the workers; nothing is, in tests without a broker."""
    sent: list[tuple[str, tuple[int | str, ...]]] = []
    monkeypatch.setattr(
        "apps.core.jobs._send", lambda name, ids, delay_s=0.0: None if delay_s else sent.append((name, ids))
    )
    return sent


@pytest.fixture(autouse=True)
def pinned(settings) -> None:  # type: ignore[no-untyped-def]
    """The same answers whatever environment the run was given for its real parts."""
    settings.GATEWAY_URL_PORT = 80
    settings.PLATFORM_DOMAIN = "localhost"
    settings.PLATFORM_ID = "test"
    settings.REGISTRY_PUBLIC = settings.REGISTRY_FOR_HOSTS = "localhost:5443"
    settings.REGISTRY_SERVICE = "berth-registry"
    settings.REGISTRY_ISSUER = "berth"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What other tests asked within the last minute, or read for good, does not count: rows get the same keys again."""
    from apps.deployments.selectors import release_of
    from apps.deployments.services.images import known

    cache.clear()
    known.cache_clear()
    release_of.cache_clear()


@dataclass
class FakeDiscovery:
    """ZooKeeper and its gateways in memory: the same promises, and faults at will."""

    epoch_name: str = "epoch-1"
    nodes: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    weights: dict[str, dict[str, int]] = field(default_factory=dict)
    groups: dict[str, tuple[tuple[int, tuple[str, ...]], ...]] = field(default_factory=dict)
    policies: dict[str, dict[str, object]] = field(default_factory=dict)
    leads: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = field(default_factory=dict)
    published_last: dict[str, Any] = field(default_factory=dict)
    challenges: dict[str, dict[str, str]] = field(default_factory=dict)
    certificate_nodes: dict[str, bytes] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    automatic: bool = True
    down: bool = False
    zxid: int = 0

    def publish(self, app, read, *, rebuilding=False):  # type: ignore[no-untyped-def]
        from apps.deployments.discovery import DiscoveryUnavailable, EpochMissing, Receipt

        if self.down:
            raise DiscoveryUnavailable("down")
        if not self.epoch_name and not rebuilding:
            raise EpochMissing
        wanted = read()
        if wanted is None:
            return None
        self.zxid += 1
        self.nodes[app] = {(one.version, one.container_id): f"{one.host}:{one.port}" for one in wanted.instances}
        self.weights[app] = wanted.weights
        self.groups[app] = wanted.groups
        self.leads[app] = (wanted.domains, wanted.places)
        self.policies[app] = wanted.policy.to_body()
        self.published_last[app] = wanted
        self.challenges[app] = wanted.challenges
        if self.automatic:
            self.served = dict.fromkeys(self.served, self.zxid)
        return Receipt(wanted.wanted, self.epoch_name, self.zxid)

    def epoch(self) -> str:
        return self.epoch_name

    def epoch_begin(self) -> str:
        self.epoch_name = "epoch-2"
        return self.epoch_name

    def withdraw(self, app: str, gone: Callable[[], bool]) -> bool:
        from apps.deployments.discovery import DiscoveryUnavailable

        if self.down:
            raise DiscoveryUnavailable("down")
        if not gone():
            return False
        self.nodes.pop(app, None)
        return True

    def at(self) -> tuple[str, int]:
        return self.epoch_name, self.zxid

    def prune(self, known: Callable[[list[str]], set[str]]) -> int:
        extra = set(self.nodes) - known(list(self.nodes))
        for app in extra:
            del self.nodes[app]
        return len(extra)

    def certificates(self, work):  # type: ignore[no-untyped-def]
        from apps.deployments.discovery import DiscoveryUnavailable

        if self.down:
            raise DiscoveryUnavailable("down")
        return work(self)

    def names(self) -> list[str]:
        return sorted(self.certificate_nodes)

    def read(self, name: str) -> bytes | None:
        return self.certificate_nodes.get(name)

    def write(self, name: str, payload: bytes) -> None:
        self.zxid += 1
        self.certificate_nodes[name] = payload

    def remove(self, name: str) -> None:
        self.certificate_nodes.pop(name, None)

    def gateways(self) -> list[GatewayState]:
        from apps.deployments.discovery import DiscoveryUnavailable

        if self.down:
            raise DiscoveryUnavailable("down")
        return [GatewayState(name, self.epoch_name, served) for name, served in self.served.items()]

    def published(self) -> dict[str, dict[tuple[str, str], str]]:
        from apps.deployments.discovery import DiscoveryUnavailable

        if self.down:
            raise DiscoveryUnavailable("down")
        return {app: dict(addresses) for app, addresses in self.nodes.items()}


@dataclass
class FakeTraffic:
    """Gateways' counters in memory: app -> gateway -> counters. Empty, as of gateways that don't answer."""

    counters: dict[str, dict[str, AppTraffic]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    since: str = "00000000-0000-0000-0000-000000000001"

    def of(self, app: str, states: Sequence[GatewayState]) -> dict[str, AppTraffic]:
        return {name: replace(one, busy=dict(self.busy)) for name, one in self.counters.get(app, {}).items()}

    def count(
        self, app: str, container: str, requests: int = 1, *, errors: int = 0, ms: int = 10, gateway: str = "gw-1"
    ) -> None:
        """So many more requests that the container answered in ``ms``, ``errors`` of them with a 5xx."""
        have = self.counters.setdefault(app, {}).get(gateway)
        containers = dict(have.containers) if have else {}
        one = containers.get(container) or ContainerTraffic(0, 0, (0,) * ANSWER_BUCKETS)
        histogram = list(one.histogram)
        histogram[bisect_left(ANSWER_BOUNDS_MS, ms)] += requests
        containers[container] = ContainerTraffic(one.requests + requests, one.errors_5xx + errors, tuple(histogram))
        classes = dict(have.classes) if have else dict.fromkeys(STATUS_CLASSES, 0)
        classes["5"] += errors
        classes["2"] += requests - errors
        self.counters[app][gateway] = AppTraffic(
            gateway=gateway,
            app=app,
            since=self.since,
            requests=(have.requests if have else 0) + requests,
            classes=classes,
            unserved=0,
            broken=0,
            listening=True,
            dropped=0,
            containers=containers,
        )


@pytest.fixture
def discovery() -> FakeDiscovery:
    return FakeDiscovery(served={"gw-1": 0})


class World:
    """Two tenants, their people, and hosts in memory."""

    def __init__(self) -> None:
        from apps.hosts.models import Cluster
        from apps.tenants.models import Plan, Role, User
        from apps.tenants.services.tenants import member_add, tenant_create

        people = ("alice", "bob", "vera", "charlie")
        self.alice, self.bob, self.vera, self.charlie = (
            User.objects.create_user(name, f"{name}@example.com", "a-long-pass-phrase") for name in people
        )
        self.plan = Plan.objects.create(slug="standard", name="Standard")
        self.acme = tenant_create(slug="acme", name="Acme", plan=self.plan, owner=self.alice)
        self.rival = tenant_create(slug="rival", name="Rival", plan=self.plan, owner=self.charlie)
        member_add(tenant=self.acme, user=self.bob, role=Role.DEVELOPER)
        member_add(tenant=self.acme, user=self.vera, role=Role.VIEWER)
        self.cluster = Cluster.objects.create(slug="main", name="Main", kind="memory", is_default=True)
        self._numbers = itertools.count(1)

    def host(self, **values):  # type: ignore[no-untyped-def]
        """A ready host with an engine in memory."""
        from apps.core.clock import now
        from apps.hosts.engines.memory import FLEET, RUNS, MemoryHost
        from apps.hosts.models import Host

        number = next(self._numbers)
        url = f"memory://host-{number}"
        FLEET.add(MemoryHost(url=url, default_behaviour=RUNS))
        defaults = {
            "cluster": self.cluster,
            "name": f"host-{number}",
            "address": f"127.0.1.{number}",
            "engine_url": url,
            "memory_mb": 8192,
            "cpu_millis": 8000,
            "status": "ready",
            "last_seen_at": now(),
        }
        return Host.objects.create(**{**defaults, **values})

    def engine_of(self, host):  # type: ignore[no-untyped-def]
        from apps.hosts.engines.memory import FLEET

        found = FLEET.get(host.engine_url)
        assert found is not None
        return found

    def app(self, slug: str = "shop", tenant=None, by=None):  # type: ignore[no-untyped-def]
        from apps.deployments.services.apps import app_create

        return app_create(tenant=tenant or self.acme, slug=slug, by=by or self.alice)

    def holds(self, app, name: str, prefix: str = "/"):  # type: ignore[no-untyped-def]
        """A name of the app's tenant, proven."""
        from datetime import timedelta

        from apps.core.clock import now
        from apps.deployments.models import Domain, DomainName

        claim, _ = DomainName.objects.get_or_create(
            tenant=app.tenant,
            name=name,
            defaults={
                "token": "t" * 32,
                "status": DomainName.Status.PROVEN,
                "proven_at": now(),
                "expires_at": now() + timedelta(days=7),
            },
        )
        return Domain.objects.create(app=app, name=name, prefix=prefix, held=claim)

    def push(self, app, tag: str = "1.0", digest: str = "a" * 64):  # type: ignore[no-untyped-def]
        from apps.core.clock import now
        from apps.registry.services.versions import version_pushed

        return version_pushed(
            repository=app.slug,
            tag=tag,
            digest=f"sha256:{digest}",
            media_type="application/vnd.oci.image.manifest.v1+json",
            pushed_by="alice",
            pushed_at=now(),
        )


@pytest.fixture
def world(db: None) -> Iterator[World]:
    from apps.hosts.engines.memory import FLEET

    yield World()
    FLEET.clear()


@pytest.fixture
def world_committed(transactional_db: None) -> Iterator[World]:
    """The same, committed: for tests whose threads have connections of their own."""
    from apps.hosts.engines.memory import FLEET

    yield World()
    FLEET.clear()


class Loop:
    """The workers, one step at a time, in this process."""

    def __init__(self, discovery: FakeDiscovery) -> None:
        from apps.deployments.reconcile import Clients

        self.discovery = discovery
        self.traffic = FakeTraffic()
        #: What the registry answers when a repository is to be purged: see apps.registry.reconcile.
        self.purge: Callable[[str], str] = lambda name: ""
        self.clients = Clients(
            discovery=discovery,
            probe=self._probe,  # type: ignore[arg-type]
            traffic=self.traffic,
            purge=lambda name: self.purge(name),
        )

    @staticmethod
    def _probe(targets: Sequence[object]) -> dict[int, object]:
        from apps.deployments.reconcile.answers import Wrong
        from apps.hosts.engines.memory import FLEET

        hosts = list(FLEET._hosts.values())
        return {
            target.pk: None  # type: ignore[attr-defined]
            if any(host.is_ready(target.host, target.port) for host in hosts)  # type: ignore[attr-defined]
            else Wrong("Connection refused")
            for target in targets
        }

    def step(self) -> None:
        """One round of everything that beat sends, whether its time has come or not."""
        from apps.deployments import reconcile
        from apps.deployments.models import App, Instance
        from apps.deployments.selectors import unfinished_tenants
        from apps.hosts.models import Host

        for pk in App.objects.values_list("pk", flat=True):
            reconcile.reconcile_app(pk, self.clients)
        for pk in unfinished_tenants(1000):
            reconcile.reconcile_tenant(pk, self.clients)
        # Those that are healthy wait for no move: the sweep does not send them either.
        waiting = Instance.objects.filter(released=False).exclude(status=Instance.Status.HEALTHY)
        for pk in waiting.values_list("pk", flat=True):
            reconcile.reconcile_instance(pk, self.clients)
        for pk in Host.objects.values_list("pk", flat=True):
            reconcile.observe_host(pk, self.clients)
        reconcile.probe_pass(self.clients)
        reconcile.gateways_observe(self.clients)

    def settle(self, rounds: int | None = None) -> None:
        """So many rounds, or until one moved nothing, six at most."""
        if rounds is not None:
            for _ in range(rounds):
                self.step()
            return
        before = None
        for _ in range(6):
            self.step()
            if before == (before := self._state()):
                return

    @staticmethod
    def _state() -> list[tuple[object, ...]]:
        from apps.core.models import Event
        from apps.deployments.models import App, Instance, ReplicaSet, Rollout
        from apps.hosts.models import Host

        return [
            (Event.objects.count(),),
            *App.objects.values_list("pk", "route_wanted", "route_published", "route_zxid").order_by("pk"),
            *ReplicaSet.objects.values_list("pk", "wanted", "weight").order_by("pk"),
            *Rollout.objects.values_list("pk", "status", "phase", "phase_since", "step", "deadline_at").order_by("pk"),
            *Instance.objects.values_list("pk", "status", "container_id", "status_since", "ready_at").order_by("pk"),
            *Host.objects.values_list("pk", "status").order_by("pk"),
        ]


@pytest.fixture
def loop(world: World, discovery: FakeDiscovery, monkeypatch: pytest.MonkeyPatch, token_key: str) -> Loop:
    monkeypatch.setattr("apps.deployments.reconcile.instance.PATIENCE_S", 0.0)
    monkeypatch.setattr("apps.deployments.reconcile.starting.PATIENCE_S", 0.0)
    monkeypatch.setattr("apps.deployments.reconcile.app.PATIENCE_S", 0.0)
    return Loop(discovery)


@pytest.fixture(scope="session")
def token_key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    path = tmp_path_factory.mktemp("keys") / "token.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(path)


@pytest.fixture
def token_key(token_key_file: str, settings) -> str:  # type: ignore[no-untyped-def]
    settings.REGISTRY_TOKEN_KEY = token_key_file
    return token_key_file
