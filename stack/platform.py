"""The whole platform on real parts, seeded: what end-to-end tests and benchmarks of whole paths begin with."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stack.catalogue import build
from stack.environment import Environment
from stack.hosts import DockerHost, DockerHosts
from stack.journey import Member, seed
from stack.parts.python import manage
from stack.runner import Stack

WORKERS = ("worker", "engines", "hosts-worker", "probes", "transfers", "registry-worker")
PARTS = ("postgres", "redis", "zookeeper", "registry", "web", *WORKERS, "beat", "watcher", "gateway")
HOST_MEMORY_MB = 1024
#: What an earlier run left in the directory; the engines' images go too, so that each run pulls anew.
STATE = ("zookeeper", "registry", "gateway", "postgres", "beat", "docker-config", "hosts")


@dataclass
class Platform:
    """``hosts`` count from 0 here; the platform knows them as host-1 and on, labelled ``number`` 1 and on."""

    env: Environment
    stack: Stack
    hosts: list[DockerHost]
    credentials: dict[str, Any]

    def member(self, tenant: str, role: str, host: int = 0) -> Member:
        (who,) = [one for one in self.credentials["tenants"][tenant] if one["role"] == role]
        return Member(self.env, who["username"], who["token"], docker_host=self.hosts[host].docker_host)

    def labelled(self, host: int, app: str, *, all_: bool = True) -> list[str]:
        """Ids of the app's containers on a host, ended ones included."""
        label = f"label=berth.app={app}"
        arguments = ["ps", "--quiet", "--no-trunc", "--filter", label, *(["--all"] if all_ else [])]
        tenant = next(iter(self.credentials["tenants"]))
        return self.member(tenant, "owner", host).docker(*arguments).split()

    def told(self, code: str) -> str:
        """The last line that a few lines of Python print in the portal's process."""
        return manage(self.env, "shell", "--no-imports", "-c", code).strip().splitlines()[-1]

    def host_availability(self, host: int, availability: str) -> None:
        self.told(
            "from apps.hosts.models import Host; from apps.hosts.services.hosts import host_set_availability; "
            f"host = Host.objects.get(name={self.hosts[host].name!r}); "
            f"host_set_availability(host=host, availability={availability!r}); print(host.pk)"
        )

    def host_status(self, host: int) -> str:
        name = self.hosts[host].name
        return self.told(f"from apps.hosts.models import Host; print(Host.objects.get(name={name!r}).status)")


@contextmanager
def hung(hosts: Sequence[DockerHost]) -> Iterator[None]:
    """Their engines take connections and never answer until the block ends; their containers run on."""
    pids = [host.dockerd_pid() for host in hosts]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def whole_platform(
    directory: Path,
    tenants: Sequence[str],
    *,
    hosts: int,
    say: Callable[[str], None] | None = None,
    **variables: str,
) -> Iterator[Platform]:
    """PostgreSQL, Redis, ZooKeeper, registry, HAProxy, ``hosts`` Docker hosts and all of ours; needs root.

    ``variables`` are added to the environment of our own processes.
    """
    env = replace(Environment.open(directory, "test"), extra=variables)
    machines = DockerHosts(env, hosts)
    with Stack(env.directory, [*machines.parts, *build(env, PARTS)], say=say, forget=STATE) as stack:
        rows = [
            {
                "name": host.name,
                "address": host.address,
                "engine_url": host.url,
                "tls_ca": host.tls.ca_pem,
                "tls_certificate": host.tls.cert_pem,
                "tls_key": host.tls.key_pem,
                "memory_mb": HOST_MEMORY_MB,
                "cpu_millis": 4000,
                "labels": {"number": str(host.index)},
            }
            for host in machines.hosts
        ]
        yield Platform(env, stack, machines.hosts, seed(env, tenants, rows))
