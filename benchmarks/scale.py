"""How fast instances come up: many on engines in memory, and an app from 1 to 50 over three real engines.

    python -m benchmarks.scale                     (make bench-scale; root, for the real engines)
    python -m benchmarks.scale --quick             a small round of the first part, to see that it runs
    python -m benchmarks.scale --apps 4 --each 500 --no-real

The first part is the whole control plane with real parts: PostgreSQL, Redis, ZooKeeper, the portal, beat and the Celery
workers as in production; only the hosts are one process (benchmarks/fleet.py) that keeps containers in memory, listens
for each of them and answers its checks. The gateway is left out: it is no part of getting healthy. From the first
rollout that is asked for until the last instance is healthy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import report, tell
from stack.catalogue import build
from stack.environment import ROOT, Environment, root_directory
from stack.journey import wait_for
from stack.platform import STATE, whole_platform
from stack.processes import descendants
from stack.runner import Stack

HOSTS = 80
TENANT = "bench"
SMALL = {"memory_mb": 32, "cpu_millis": 20}
PARTS = ("postgres", "redis", "zookeeper", "web", "worker", "engines", "hosts-worker", "probes", "beat")


@contextmanager
def _fleet(socket: str, names: list[str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fleet", socket, *names], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", "the fleet did not start"
        yield
    finally:
        process.terminate()
        process.wait()


def _world(names: list[str], apps: int) -> tuple[Any, list[Any]]:
    from apps.core.clock import now
    from apps.deployments.services.apps import app_create
    from apps.hosts.models import Cluster, Host
    from apps.registry.services.versions import version_pushed
    from apps.tenants.models import Plan, Quota, User
    from apps.tenants.services.tenants import tenant_create

    user = User.objects.create_user("bench", "bench@example.com", "a-long-pass-phrase")
    plan = Plan.objects.create(slug="bench", name="Bench")
    cluster = Cluster.objects.create(slug="bench", name="Bench", kind="memory", is_default=True)
    for number, name in enumerate(names):
        Host.objects.create(
            cluster=cluster,
            name=name,
            address=f"127.1.{number // 250}.{1 + number % 250}",
            engine_url=f"memory://{name}",
            memory_mb=65536,
            cpu_millis=64000,
            status="ready",
            last_seen_at=now(),
        )
    made = []
    for number in range(apps):
        # A few apps for each tenant, so that neither one quota nor one app is all that is written.
        if not number % 4:
            tenant = tenant_create(slug=f"bench-{number}", name="Bench", plan=plan, owner=user)
            Quota.objects.filter(tenant=tenant).update(memory_mb=2**24, cpu_millis=2**24, instances=10**5, apps=100)
        app = app_create(tenant=tenant, slug=f"scale-{number}", by=user)
        version_pushed(
            repository=app.slug,
            tag="1.0",
            digest="sha256:" + "a" * 64,
            media_type="application/vnd.oci.image.manifest.v1+json",
            pushed_by="bench",
            pushed_at=now(),
        )
        made.append(app)
    return user, made


def _cpu_s(stack: Stack) -> dict[str, float]:
    """Seconds of CPU that each part has used, its children's included; whatever else of the machine is busy."""
    ticks, found = os.sysconf("SC_CLK_TCK"), {}
    for name in PARTS:
        pid = stack.pid(name)
        used = 0
        for one in [pid, *descendants(pid)]:
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used += int(fields[11]) + int(fields[12])
        found[name] = used / ticks
    return found


def _healthy() -> int:
    from apps.deployments.models import Instance

    return Instance.objects.filter(status="healthy", released=False).count()


def _up(stack: Stack, user: Any, apps: list[Any], each: int) -> dict[str, Any]:
    """Deploys all apps one after the other, as fast as they are accepted; waits until all instances are healthy."""
    from apps.deployments.models import Rollout
    from apps.deployments.services.releases import ReleaseSettings
    from apps.deployments.services.rollouts import rollout_start

    total = len(apps) * each
    before = _cpu_s(stack)
    began = time.monotonic()
    for app in apps:
        rollout_start(app=app, version="1.0", by=user, instances=each, settings_=ReleaseSettings(**SMALL))
    accepted = time.monotonic() - began
    seen: list[tuple[float, int]] = []

    def all_healthy() -> bool:
        seen.append((round(time.monotonic() - began, 1), _healthy()))
        return seen[-1][1] >= total

    wait_for(f"{total} instances", all_healthy, 60 + total / 20, 1.0)
    took = time.monotonic() - began

    def all_through() -> bool:
        return Rollout.objects.filter(status="succeeded").count() >= len(apps)

    wait_for("the rollouts' success", all_through, 120, 0.5)
    through = time.monotonic() - began
    tell(f"{len(apps)} x {each}: {took:.1f} s, {total / took:.0f} instances/s (accepted after {accepted:.1f} s)")
    used = {name: round(seconds - before[name], 1) for name, seconds in _cpu_s(stack).items()}
    return {
        "cpu_s": used,
        "cpu_ms_per_instance": round(sum(used.values()) / total * 1000, 1),
        "instances_per_s": round(total / took, 1),
        "took_s": round(took, 1),
        "accepted_s": round(accepted, 1),
        "rollouts_through_s": round(through, 1),
        "healthy_by_second": seen,
    }


def in_memory(apps: int, each: int) -> dict[str, Any]:
    """In a process of its own for each size: Django is set up once for one database."""
    env = Environment.open(root_directory() / "bench-scale", "test")
    names = [f"host-{number}" for number in range(HOSTS)]
    socket = str(env.socket_path("fleet.sock"))
    env = replace(env, extra={"BERTH_MEMORY_FLEET": socket, "BERTH_LOG_LEVEL": "WARNING"})
    os.environ.update(env.variables())
    with (
        _fleet(socket, [f"memory://{name}" for name in names]),
        Stack(env.directory, build(env, PARTS), say=tell, forget=STATE) as stack,
    ):
        import django

        django.setup()
        from django.db import connection

        user, made = _world(names, apps)
        result = _up(stack, user, made, each)
        connection.close()
        return result


def one_to_fifty() -> float:
    """Seconds from asking for 50 until 50 are healthy and routed, over three real engines."""
    with whole_platform(root_directory() / "bench-scale-real", [TENANT], hosts=3, say=tell) as platform:
        # The plan of a demo's tenant is smaller than that.
        platform.told("from apps.tenants.models import Quota; print(Quota.objects.update(instances=100))")
        member = platform.member(TENANT, "owner")
        member.login()
        member.app_create(TENANT, "scaled")
        member.push_sample("scaled", "1.0")
        member.version_wait("scaled", "1.0")
        member.deploy("scaled", "1.0", instances=3, judge_s=0, **SMALL)
        member.request("POST", "apps/scaled/scale/", {"instances": 1})
        wait_for("one instance", lambda: len(_counted(platform)) == 1, 60)
        began = time.monotonic()
        member.request("POST", "apps/scaled/scale/", {"instances": 50})
        wait_for("fifty instances", lambda: len(_counted(platform)) == 50, 180, 0.2)
        return round(time.monotonic() - began, 2)


def _counted(platform: Any) -> list[Any]:
    import psycopg

    with psycopg.connect(platform.env.database_url()) as database:
        return database.execute(
            "SELECT i.id FROM deployments_instance i JOIN deployments_app a ON a.id = i.app_id "
            "WHERE i.status = 'healthy' AND NOT i.released AND a.route_wanted = a.route_published"
        ).fetchall()


def _in_child(apps: int, each: int) -> dict[str, Any]:
    import json

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--one", str(apps), str(each)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--apps", type=int, nargs="+", default=[4, 16])
    arguments.add_argument("--each", type=int, default=500)
    arguments.add_argument("--no-real", action="store_true", help="without the real engines, which need root")
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        import json

        print(json.dumps(in_memory(*given.one)))
        return
    sizes, each = ([2], 50) if given.quick else (given.apps, given.each)
    found = {apps: _in_child(apps, each) for apps in sizes}
    figures = {f"instances_per_s_{apps}x{each}": result["instances_per_s"] for apps, result in found.items()}
    if not given.no_real and not given.quick:
        figures["scale_1_to_50_s"] = one_to_fifty()
    report("scale", figures, {f"{apps}x{each}": result for apps, result in found.items()})


if __name__ == "__main__":
    main()
