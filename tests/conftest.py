"""The whole platform on real parts, once per run: PostgreSQL, Redis, ZooKeeper, registry, HAProxy, two Docker hosts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stack.catalogue import build
from stack.environment import Environment, root_directory
from stack.hosts import DockerHost, DockerHosts
from stack.journey import Member, seed
from stack.runner import Stack

PARTS = ("postgres", "redis", "zookeeper", "registry", "web", "worker", "engines", "hosts-worker", "beat", "gateway")
HOST_MEMORY_MB = 1024
#: What an earlier run left in the directory; the engines' images go too, so that each run pulls anew.
STATE = ("zookeeper", "registry", "gateway", "postgres", "beat", "docker-config", "hosts")


@dataclass
class Platform:
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
        return self.member("acme", "owner", host).docker(*arguments).split()


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    # Long enough for every app of these tests that means to become ready, short enough to wait for one that does not.
    limits = {"BERTH_READY_DEADLINE": "12"}
    env = replace(Environment.open(root_directory() / "e2e", "test"), extra=limits)
    hosts = DockerHosts(env, 2)
    with Stack(env.directory, [*hosts.parts, *build(env, PARTS)], forget=STATE) as stack:
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
            }
            for host in hosts.hosts
        ]
        yield Platform(env, stack, hosts.hosts, seed(env, ["acme", "rival"], rows))
