"""Tasks of the loop: each is one step of reconcile, and the sweep that finds what no message announced."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.conf import settings

from apps.core import jobs
from apps.core.duties import SWEEP, due
from apps.deployments import accesslog, reconcile
from apps.deployments.certificate_files import platform_certificate_read
from apps.deployments.selectors import unfinished_apps, unfinished_instances, unfinished_tenants
from apps.deployments.selectors.certificates import orders_due
from apps.deployments.selectors.domains import names_due
from apps.deployments.services.capsules import capsules_expire
from apps.deployments.services.certificates import expiries_tell, renewals_begin
from apps.deployments.services.imports import imported_deploy
from apps.deployments.services.outage import deadlines_extended
from apps.deployments.services.pushes import pushed_deploy, pushes_find
from apps.deployments.services.retention import apps_clean
from apps.hosts.selectors import hosts_low_on_disk, hosts_to_observe
from workers.celery import ENGINES
from workers.clients import backlog, clients

SWEEP_LIMIT = 1000
#: Looks at names: each asks DNS, which may take seconds, and the registry's worker does others' work too.
DOMAINS_LIMIT = 50
ORDERS_AT_ONCE = 20
#: With so many messages waiting, what waits has one: only what has waited for so long is sent for, or there would be
#: ever more of them. Seconds.
BACKLOG, BACKLOGGED_S = 100, 30.0
DAY_S = 86400
_stopping = threading.Event()


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """A task that goes on for seconds must not keep a worker from stopping."""
    _stopping.set()


@shared_task(name=jobs.RECONCILE_APP)
def reconcile_app(app_id: int) -> None:
    reconcile.reconcile_app(app_id, clients())


@shared_task(name=jobs.RECONCILE_INSTANCE)
def reconcile_instance(instance_id: int) -> None:
    reconcile.reconcile_instance(instance_id, clients())


@shared_task(name=jobs.START_INSTANCES)
def start_instances(*instance_ids: int) -> None:
    reconcile.start_instances(instance_ids, clients())


@shared_task(name=jobs.RECONCILE_TENANT)
def reconcile_tenant(tenant_id: int) -> None:
    reconcile.reconcile_tenant(tenant_id, clients())


@shared_task(name=jobs.OBSERVE_HOST)
def observe_host(host_id: int) -> None:
    reconcile.observe_host(host_id, clients())


@shared_task(name=jobs.REBUILD_DISCOVERY)
def rebuild_discovery() -> None:
    with due("rebuild_discovery", every_s=2) as mine:
        if mine:
            reconcile.rebuild_discovery(clients())


@shared_task(name="deployments.gateways")
def gateways() -> None:
    with due("gateways", every_s=1) as mine:
        if mine:
            reconcile.gateways_observe(clients())


@shared_task(name="deployments.access_log")
def access_log() -> None:
    if settings.ACCESS_LOG_REDIS:
        with due("access_log", every_s=1) as mine:
            if mine:
                accesslog.ship()


@shared_task(name="deployments.probe")
def probe() -> None:
    """Sees to it that every shard is probed; one that is keeps others away by its lease."""
    for shard in range(settings.PROBE_SHARDS):
        jobs.enqueue(jobs.PROBE_SHARD, shard)


@shared_task(name=jobs.PROBE_SHARD)
def probe_shard(shard: int) -> None:
    reconcile.probe_shard(clients(), shard, stopping=_stopping.is_set)


@shared_task(name="deployments.observe_hosts")
def observe_hosts() -> None:
    for pk in hosts_to_observe().values_list("pk", flat=True):
        jobs.enqueue(jobs.OBSERVE_HOST, pk)


@shared_task(name="deployments.sweep")
def sweep() -> None:
    with due(SWEEP, every_s=1, back=deadlines_extended) as mine:
        if not mine:
            return
        for pk in unfinished_apps(SWEEP_LIMIT):
            jobs.enqueue(jobs.RECONCILE_APP, pk)
        for pk in unfinished_tenants(SWEEP_LIMIT):
            jobs.enqueue(jobs.RECONCILE_TENANT, pk)
        for pks in unfinished_instances(SWEEP_LIMIT, 1.0 if backlog(ENGINES) < BACKLOG else BACKLOGGED_S):
            jobs.enqueue(jobs.START_INSTANCES if len(pks) > 1 else jobs.RECONCILE_INSTANCE, *pks)


@shared_task(name=jobs.DEPLOY_PUSHED)
def deploy_pushed(slug: str) -> None:
    pushed_deploy(slug=slug)


@shared_task(name="deployments.pushes")
def pushes() -> None:
    with due("pushes", every_s=2) as mine:
        if mine:
            pushes_find(SWEEP_LIMIT)


@shared_task(name=jobs.DEPLOY_IMPORTED)
def deploy_imported() -> None:
    with due("deploy_imported", every_s=0) as mine:
        if mine:
            imported_deploy(SWEEP_LIMIT)


@shared_task(name="deployments.domains")
def domains() -> None:
    with due("domains", every_s=5) as mine:
        if mine:
            for pk in names_due(DOMAINS_LIMIT):
                jobs.enqueue(jobs.CHECK_DOMAIN, pk)


@shared_task(name=jobs.CHECK_DOMAIN)
def check_domain(claim_id: int) -> None:
    reconcile.domain_prove(claim_id, clients())


@shared_task(name="deployments.capsules")
def capsules() -> None:
    with due("capsules", every_s=DAY_S) as mine:
        if mine:
            capsules_expire()


@shared_task(name="deployments.retention")
def retention() -> None:
    """Each app once a day, those that waited the longest first."""
    with due("retention", every_s=60) as mine:
        if mine:
            apps_clean(limit=200, budget_s=45)


@shared_task(name=jobs.ORDER_CERTIFICATE)
def order_certificate(certificate_id: int) -> None:
    reconcile.reconcile_certificate(certificate_id)


@shared_task(name=jobs.PUBLISH_CERTIFICATES)
def publish_certificates() -> None:
    with due("certificates_publish", every_s=0) as mine:
        if mine:
            reconcile.certificates_publish(clients())


@shared_task(name="deployments.certificates")
def certificates() -> None:
    """Orders that wait for a step, changes whose nudge was lost, and what comes to its end."""
    for pk in orders_due(ORDERS_AT_ONCE):
        jobs.enqueue(jobs.ORDER_CERTIFICATE, pk)
    publish_certificates()
    with due("certificates_age", every_s=3600) as mine:
        if mine:
            platform_certificate_read()
            renewals_begin()
            expiries_tell()


@shared_task(name="deployments.images")
def images() -> None:
    for pk in hosts_low_on_disk(settings.HOST_IMAGES_DISK_PERCENT):
        jobs.enqueue(jobs.PRUNE_IMAGES, pk)


@shared_task(name=jobs.PRUNE_IMAGES)
def prune_images(host_id: int) -> None:
    with due(f"images:{host_id}", every_s=25) as mine:
        if mine:
            reconcile.images_prune(host_id, clients())
