"""Desired against observed. The only caller of engines that changes anything.

Every step may be repeated, may run twice at once, and may die at any line: it reads what is wanted, looks at what is
there, makes one idempotent move, and writes down what it saw by compare-and-swap.
"""

from apps.deployments.reconcile.app import reconcile_app
from apps.deployments.reconcile.certificates import certificates_publish
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.deleting import reconcile_tenant
from apps.deployments.reconcile.domains import domain_prove
from apps.deployments.reconcile.hosts import container_ended, observe_host
from apps.deployments.reconcile.images import images_prune
from apps.deployments.reconcile.instance import reconcile_instance
from apps.deployments.reconcile.ordering import reconcile_certificate
from apps.deployments.reconcile.probes import probe_pass
from apps.deployments.reconcile.routes import gateways_observe, rebuild_discovery
from apps.deployments.reconcile.shards import probe_shard
from apps.deployments.reconcile.starting import start_instances

__all__ = [
    "Clients",
    "certificates_publish",
    "container_ended",
    "domain_prove",
    "gateways_observe",
    "images_prune",
    "observe_host",
    "probe_pass",
    "probe_shard",
    "rebuild_discovery",
    "reconcile_app",
    "reconcile_certificate",
    "reconcile_instance",
    "reconcile_tenant",
    "start_instances",
]
