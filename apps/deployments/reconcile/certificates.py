"""Keeping ZooKeeper's certificates true to the database. Two that do it at once write the same in the end."""

from __future__ import annotations

import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from apps.deployments.discovery import DiscoveryUnavailable
from apps.deployments.discovery_certificates import CertificateNodes
from apps.deployments.reconcile.clients import Clients
from apps.deployments.selectors.certificates import Shown, nodes_known, shown, unpublished, with_certificate
from apps.deployments.services.certificates import certificate_published
from gateway.contract import Certificate, ContractError

log = structlog.get_logger(__name__)


def certificates_publish(clients: Clients, *, everything: bool = False) -> bool:
    """Write what changed, and remove what is gone; ``everything``: compare all. False where ZooKeeper is away.

    Without a key to encrypt with nothing is written or removed.
    """
    keys = settings.GATEWAY_CERTIFICATE_KEYS
    if not keys:
        return True
    sealer = MultiFernet([Fernet(key) for key in keys])
    try:
        clients.discovery.certificates(lambda nodes: _mend(nodes, sealer, everything))
    except DiscoveryUnavailable as error:
        log.warning("certificates_not_published", error=error.detail)
        return False
    return True


def _mend(nodes: CertificateNodes, sealer: MultiFernet, everything: bool) -> None:
    # ZooKeeper is listed first and the database asked second: one made meanwhile is safe.
    listed = nodes.names()
    for pk in {*unpublished(), *(with_certificate() if everything else ())}:
        found = shown(pk)
        if found is not None:
            _write(nodes, sealer, found)
        elif f"c-{pk}" in listed:
            nodes.remove(f"c-{pk}")
    extra = sorted(set(listed) - nodes_known(listed))
    if len(extra) > max(5, len(listed) // 2) and not everything:
        # It looks more like a lost database than like so many deleted certificates.
        log.error("certificates_unknown", count=len(extra), listed=len(listed))
        return
    for name in extra:
        nodes.remove(name)


def _write(nodes: CertificateNodes, sealer: MultiFernet, found: Shown) -> None:
    stands = nodes.read(found.node)
    if stands is None or not _same(stands, sealer, found):
        sealed = sealer.encrypt(found.key.encode()).decode()
        try:
            payload = Certificate(found.node, found.names, found.chain, sealed).to_json()
            Certificate.from_json(payload)
        except ContractError as error:
            # One that can't be written must not stop the others.
            log.error("unpublishable", certificate=found.pk, error=str(error))
            return
        nodes.write(found.node, payload)
    certificate_published(pk=found.pk, wanted=found.wanted)


def _same(stands: bytes, sealer: MultiFernet, found: Shown) -> bool:
    """Encrypting gives another text each time, so what stands there is opened."""
    try:
        there = Certificate.from_json(stands)
        key = sealer.decrypt(there.sealed_key.encode()).decode()
    except (ContractError, InvalidToken):
        return False
    return (there.id, there.names, there.chain, key) == (found.node, found.names, found.chain, found.key)
