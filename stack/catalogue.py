"""Names of parts, and the parts that an environment starts when nothing else is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stack.environment import Environment
from stack.hosts import DockerHosts
from stack.parts.base import Part, StackError
from stack.parts.postgres import postgres
from stack.parts.python import (
    beat,
    collector,
    engines_worker,
    gateway,
    hosts_worker,
    probes_worker,
    registry_worker,
    transfers_worker,
    watcher,
    web,
    worker,
)
from stack.parts.redis import redis
from stack.parts.registry import registry
from stack.parts.registry_cache import registry_cache
from stack.parts.zookeeper import zookeeper

FACTORIES: Mapping[str, Callable[[Environment], Part]] = {
    "redis": redis,
    "zookeeper": zookeeper,
    "registry": registry,
    "registry-cache": registry_cache,
    "postgres": postgres,
    "web": web,
    "worker": worker,
    "engines": engines_worker,
    "hosts-worker": hosts_worker,
    "probes": probes_worker,
    "transfers": transfers_worker,
    "registry-worker": registry_worker,
    "beat": beat,
    "watcher": watcher,
    "collector": collector,
    "gateway": gateway,
}
# "hosts=2" stands for two Docker hosts.
HOSTS = "hosts"
DEFAULTS: Mapping[str, Sequence[str]] = {
    "demo": (
        *("redis", "zookeeper", "registry", "web"),
        *(
            "worker",
            "engines",
            "hosts-worker",
            "probes",
            "transfers",
            "registry-worker",
            "beat",
            "watcher",
            "collector",
            "gateway",
        ),
    ),
    "test": ("postgres", "redis", "zookeeper"),
}


def build(env: Environment, names: Sequence[str]) -> list[Part]:
    """The parts of these names; StackError for a name that is none."""
    parts: list[Part] = []
    for name in names:
        kind, _, count = name.partition("=")
        if kind == HOSTS and (count.isdigit() or not count):
            parts += DockerHosts(env, int(count or 1)).parts
        elif name in FACTORIES:
            parts.append(FACTORIES[name](env))
        else:
            known = ", ".join([*FACTORIES, f"{HOSTS}=N"])
            raise StackError(f"there is no part {name!r}; known: {known}")
    return parts
