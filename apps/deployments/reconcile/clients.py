"""The connections that reconcile works with, passed in so that tests can pass others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from django.conf import settings

from apps.deployments.discovery import Publisher, Receipt
from apps.deployments.reconcile.probing import Target, ask
from apps.deployments.selectors import Publication
from apps.hosts.engines.base import Engine, EngineAddress, EngineUnreachable, TLSMaterial
from apps.hosts.engines.connect import connect
from apps.hosts.models import Host
from gateway.contract import GatewayState


class Discovery(Protocol):
    def publish(
        self, app: str, read: Callable[[], Publication | None], *, rebuilding: bool = False
    ) -> Receipt | None: ...

    def epoch(self) -> str: ...

    def epoch_begin(self) -> str: ...

    def prune(self, known: Callable[[list[str]], set[str]]) -> int: ...

    def gateways(self) -> list[GatewayState]: ...


Probe = Callable[[Sequence[Target]], dict[int, str | None]]


def address_of(host: Host) -> EngineAddress:
    tls = None
    if host.tls_ca:
        tls = TLSMaterial(ca=host.tls_ca, certificate=host.tls_certificate, key=host.tls_key)
    return EngineAddress(kind=host.cluster.kind, url=host.engine_url, tls=tls)


class Clients:
    """Engines by address, and the publisher; made when first needed and kept for the life of the process.

    ``probe`` asks a batch of targets: instance id -> None if it is well, else what was wrong.
    """

    def __init__(self, *, discovery: Discovery | None = None, probe: Probe = ask) -> None:
        self.probe = probe
        self._engines: dict[EngineAddress, Engine] = {}
        self._discovery = discovery

    def engine(self, host: Host) -> Engine:
        """Raises EngineError, also where this machine can't prepare the connection (a full disk for its TLS files)."""
        address = address_of(host)
        engine = self._engines.get(address)
        if engine is None:
            try:
                engine = self._engines[address] = connect(address)
            except OSError as error:
                raise EngineUnreachable(f"the connection could not be prepared: {error}") from error
        return engine

    @property
    def discovery(self) -> Discovery:
        if self._discovery is None:
            self._discovery = Publisher(
                hosts=settings.ZOOKEEPER_HOSTS,
                credential=settings.ZOOKEEPER_PUBLISHER,
                gateway_credential=settings.ZOOKEEPER_GATEWAY,
            )
        return self._discovery
