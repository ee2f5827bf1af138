"""The connections that reconcile works with, passed in so that tests can pass others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from django.conf import settings

from apps.deployments.discovery import Publisher, Receipt
from apps.deployments.discovery_certificates import CertificateNodes
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.probing import Target, ask
from apps.deployments.resolving import PublicResolver, Resolver
from apps.deployments.selectors import Publication
from apps.deployments.traffic import Traffic
from apps.hosts.engines.base import EngineAddress, EngineUnreachable, TLSMaterial
from apps.hosts.engines.connect import HostEngine, connect
from apps.hosts.models import Host
from apps.hosts.services.authority import client_material
from apps.registry.reconcile import repository_purge
from gateway.contract import AppTraffic, GatewayState

T = TypeVar("T")


class Discovery(Protocol):
    def publish(
        self, app: str, read: Callable[[], Publication | None], *, rebuilding: bool = False
    ) -> Receipt | None: ...

    def epoch(self) -> str: ...

    def epoch_begin(self) -> str: ...

    def withdraw(self, app: str, gone: Callable[[], bool]) -> bool: ...

    def at(self) -> tuple[str, int]: ...

    def prune(self, known: Callable[[list[str]], set[str]]) -> int: ...

    def gateways(self) -> list[GatewayState]: ...

    def published(self) -> dict[str, dict[tuple[str, str], str]]: ...

    def certificates(self, work: Callable[[CertificateNodes], T]) -> T: ...


class TrafficReader(Protocol):
    def of(self, app: str, states: Sequence[GatewayState]) -> dict[str, AppTraffic]: ...


Probe = Callable[[Sequence[Target]], dict[int, Wrong | None]]


#: Seconds that the platform's own client certificate is kept before the database is asked whether it was renewed.
MATERIAL_KEPT_S = 60.0


def address_of(host: Host, material: Callable[[], TLSMaterial]) -> EngineAddress:
    """Hosts added by hand have TLS texts of their own. One at https:// without any joined by itself, with a certificate
    of the platform's authority: no column says so, and none need be read.
    """
    tls = None
    if host.tls_ca:
        tls = TLSMaterial(ca=host.tls_ca, certificate=host.tls_certificate, key=host.tls_key)
    elif host.engine_url.startswith("https://"):
        tls = material()
    return EngineAddress(kind=host.cluster.kind, url=host.engine_url, tls=tls)


def platform_material() -> TLSMaterial:
    found = client_material()
    return TLSMaterial(ca=found.ca, certificate=found.certificate, key=found.key)


class Material:
    """The platform's client certificate, read from the database (and renewed there) once in a while."""

    def __init__(
        self,
        read: Callable[[], TLSMaterial] = platform_material,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._held: tuple[float, TLSMaterial] | None = None

    def __call__(self) -> TLSMaterial:
        held, at = self._held, self._clock()
        if held is None or at - held[0] >= MATERIAL_KEPT_S:
            held = self._held = (at, self._read())
        return held[1]


#: As many threads as an engines worker has, times the starts that each has under way.
POOL = 64


class Clients:
    """Engines by host, the publisher, gateways' counters; made when first needed, kept for the life of the process.

    ``probe`` asks a batch of targets: instance id -> None if it is well, else what was wrong.
    ``purge`` takes a repository out of the registry, as apps.registry.reconcile says it.
    """

    def __init__(
        self,
        *,
        discovery: Discovery | None = None,
        probe: Probe = ask,
        material: Callable[[], TLSMaterial] | None = None,
        traffic: TrafficReader | None = None,
        purge: Callable[[str], str] = repository_purge,
        resolver: Resolver | None = None,
    ) -> None:
        self.probe = probe
        self.purge = purge
        self._material = material or Material()
        self._engines: dict[int, tuple[EngineAddress, HostEngine]] = {}
        self._lock = threading.Lock()
        self._discovery = discovery
        self._traffic = traffic
        self._resolver = resolver
        self._pool: ThreadPoolExecutor | None = None

    def engine(self, host: Host) -> HostEngine:
        """Raises EngineError, also where this machine can't prepare the connection (a full disk for its TLS files)."""
        address = address_of(host, self._material)
        with self._lock:
            held = self._engines.get(host.pk)
            if held is not None and held[0] == address:
                return held[1]
            try:
                engine = connect(address)
            except OSError as error:
                raise EngineUnreachable(f"the connection could not be prepared: {error}") from error
            self._engines[host.pk] = (address, engine)
        if held is not None:
            # Its address or our certificate is another now. Whoever still waits for an answer of the old one gets it.
            held[1].close()
        return engine

    @property
    def pool(self) -> ThreadPoolExecutor:
        """For calls of engines side by side: those of a host that hangs are few at a time, so there are enough."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(POOL, "engines")
            return self._pool

    @property
    def discovery(self) -> Discovery:
        if self._discovery is None:
            self._discovery = Publisher(
                hosts=settings.ZOOKEEPER_HOSTS,
                credential=settings.ZOOKEEPER_PUBLISHER,
                gateway_credential=settings.ZOOKEEPER_GATEWAY,
            )
        return self._discovery

    @property
    def resolver(self) -> Resolver:
        if self._resolver is None:
            self._resolver = PublicResolver(settings.DNS_RESOLVERS, timeout_s=settings.DNS_TIMEOUT_S)
        return self._resolver

    @property
    def traffic(self) -> TrafficReader:
        if self._traffic is None:
            self._traffic = Traffic()
        return self._traffic
