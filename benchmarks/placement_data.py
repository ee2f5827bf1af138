"""A cluster of any size for benchmarks/placement.py, made by the database itself, and its check afterwards."""

from __future__ import annotations

from django.db import connection

SLOTS = 20
"""Instances that fit on one host."""
MEMORY_MB = 512
CPU_MILLIS = 100
PORT_MIN = 20000
TENANTS = 50
APPS = 1000

_TABLES = (
    "core_event, deployments_explanation, deployments_instance, deployments_replicaset, deployments_release,"
    "deployments_rollout, deployments_domain, deployments_app, hosts_portallocation, hosts_allocation, hosts_host,"
    "hosts_cluster, registry_version, registry_repository, tenants_quota, tenants_membership, tenants_tenant,"
    "tenants_plan"
)


def make(hosts: int, fill: float) -> int:
    """Everything anew: so many hosts, filled to this share with instances of APPS apps. Returns how many instances."""
    from apps.core.clock import now
    from apps.deployments.models import App, Release, ReplicaSet
    from apps.hosts.models import Cluster
    from apps.registry.models import Repository, Version
    from apps.tenants.models import Plan, Quota, Tenant

    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {_TABLES} RESTART IDENTITY CASCADE")
    cluster = Cluster.objects.create(slug="bench", name="Bench", kind="memory", is_default=True)
    plan = Plan.objects.create(slug="bench", name="Bench")
    tenants = Tenant.objects.bulk_create(Tenant(slug=f"t{n}", name="x", plan=plan) for n in range(TENANTS))
    limits = {"memory_mb": 2**30, "cpu_millis": 2**30, "instances": 2**30, "apps": 10**6}
    Quota.objects.bulk_create(Quota(tenant=tenant, **limits) for tenant in tenants)
    apps = App.objects.bulk_create(App(slug=f"a{n}", tenant=tenants[n % TENANTS], cluster=cluster) for n in range(APPS))
    repositories = Repository.objects.bulk_create(Repository(name=app.slug, tenant_id=app.tenant_id) for app in apps)
    digest = "sha256:" + "a" * 64
    versions = Version.objects.bulk_create(
        Version(repository=one, tag="1", digest=digest, media_type="x", pushed_at=now()) for one in repositories
    )
    releases = Release.objects.bulk_create(
        Release(app=app, number=1, version=version, memory_mb=MEMORY_MB, cpu_millis=CPU_MILLIS)
        for app, version in zip(apps, versions, strict=True)
    )
    ReplicaSet.objects.bulk_create(ReplicaSet(app=one.app, release=one, wanted=1) for one in releases)
    with connection.cursor() as cursor:
        cursor.execute(_HOSTS, [cluster.pk, SLOTS * MEMORY_MB, SLOTS * CPU_MILLIS, PORT_MIN, hosts])
        count = int(hosts * SLOTS * fill)
        for statement in _FILL:
            cursor.execute(
                statement,
                {
                    "count": count,
                    "hosts": hosts,
                    "apps": APPS,
                    "memory": MEMORY_MB,
                    "cpu": CPU_MILLIS,
                    "port": PORT_MIN,
                },
            )
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return count


_HOSTS = """
INSERT INTO hosts_host (lease_owner, cluster_id, name, address, engine_url, tls_ca, tls_certificate, tls_key, labels,
    memory_mb, cpu_millis, memory_mb_claimed, cpu_millis_claimed, port_min, port_max, port_next, status, generation,
    engine_version, last_error, engine_number)
SELECT '', %s, 'h' || n, '10.0.0.1', 'memory://h' || n, '', '', '', '{}', %s, %s, 0, 0, %s, 29999, 0, 'ready', 0,
    '20.10.5', '', 20010005 FROM generate_series(1, %s) AS n
"""
# Instance i is on host i modulo hosts, so a host's instances are those of many apps and tenants.
_FILL = (
    """
INSERT INTO deployments_instance (lease_owner, uid, port, status, status_since, container_id, failures, code, reason,
    was_routed, unrouted_epoch, unrouted_zxid, released, created_at, app_id, host_id, replica_set_id)
SELECT '', gen_random_uuid(), %(port)s + i / %(hosts)s, 'healthy', now(), '', 0, '', '', true, '', 0, false, now(),
    1 + (i * 7919) %% %(apps)s, 1 + i %% %(hosts)s, 1 + (i * 7919) %% %(apps)s
FROM generate_series(0, %(count)s - 1) AS i
""",
    """
INSERT INTO hosts_allocation (owner, tenant_id, memory_mb, cpu_millis, created_at, host_id)
SELECT i.uid, a.tenant_id, %(memory)s, %(cpu)s, now(), i.host_id
FROM deployments_instance i JOIN deployments_app a ON a.id = i.app_id
""",
    """
INSERT INTO hosts_portallocation (port, protocol, status, owner, epoch, zxid, host_id)
SELECT port, 'tcp', 'claimed', uid, '', 0, host_id FROM deployments_instance
""",
    """
UPDATE hosts_host h SET memory_mb_claimed = s.n * %(memory)s, cpu_millis_claimed = s.n * %(cpu)s, ports_held = s.n,
    port_next = %(port)s + s.n
FROM (SELECT host_id, count(*) AS n FROM hosts_allocation GROUP BY host_id) s WHERE s.host_id = h.id
""",
    """
UPDATE tenants_quota q SET memory_mb_used = s.n * %(memory)s, cpu_millis_used = s.n * %(cpu)s, instances_used = s.n
FROM (SELECT tenant_id, count(*) AS n FROM hosts_allocation GROUP BY tenant_id) s WHERE s.tenant_id = q.tenant_id
""",
)

_VIOLATIONS = {
    "overcommitted_hosts": """
SELECT count(*) FROM hosts_host h LEFT JOIN
    (SELECT host_id, sum(memory_mb) AS m, sum(cpu_millis) AS c FROM hosts_allocation GROUP BY host_id) s
    ON s.host_id = h.id
WHERE coalesce(s.m, 0) > h.memory_mb_capacity OR coalesce(s.c, 0) > h.cpu_millis_capacity
    OR coalesce(s.m, 0) <> h.memory_mb_claimed OR coalesce(s.c, 0) <> h.cpu_millis_claimed
""",
    "duplicate_ports": """
SELECT count(*) FROM (SELECT 1 FROM deployments_instance WHERE NOT released GROUP BY host_id, port
    HAVING count(*) > 1) x
""",
    "quota_overruns": """
SELECT count(*) FROM tenants_quota q LEFT JOIN
    (SELECT tenant_id, sum(memory_mb) AS m, sum(cpu_millis) AS c, count(*) AS n FROM hosts_allocation
     GROUP BY tenant_id) s ON s.tenant_id = q.tenant_id
WHERE coalesce(s.m, 0) > q.memory_mb OR coalesce(s.c, 0) > q.cpu_millis OR coalesce(s.n, 0) > q.instances
    OR coalesce(s.m, 0) <> q.memory_mb_used OR coalesce(s.n, 0) <> q.instances_used
""",
    "instances_without_claims": """
SELECT count(*) FROM deployments_instance i WHERE NOT released AND (
    NOT EXISTS (SELECT 1 FROM hosts_allocation a WHERE a.owner = i.uid AND a.host_id = i.host_id) OR
    NOT EXISTS (SELECT 1 FROM hosts_portallocation p WHERE p.owner = i.uid AND p.host_id = i.host_id
        AND p.port = i.port AND p.status = 'claimed'))
""",
}


def violations() -> dict[str, int]:
    """Counted from the tables, without a line of the code that is measured."""
    found = {}
    with connection.cursor() as cursor:
        for name, statement in _VIOLATIONS.items():
            cursor.execute(statement)
            found[name] = int(cursor.fetchone()[0])
    return found
