"""What a tenant does, done as a tenant does it: docker login, build, push, deploy over the API, open the address.

The demo and the end-to-end tests walk the same way.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from stack import sample
from stack.environment import Environment
from stack.parts.base import StackError
from stack.parts.python import manage

OPEN = {"pending", "progressing", "paused"}


def seed(env: Environment, tenants: Sequence[str], hosts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An admin, tenants with two members each, and hosts; returns the credentials (see demo_seed)."""
    wanted = [word for slug in tenants for word in ("--tenant", slug)]
    # On standard input: the rows hold private keys, which every user of the machine could read in a command line.
    told: dict[str, Any] = json.loads(manage(env, "demo_seed", *wanted, stdin=json.dumps(list(hosts))))
    return told


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """What the condition returns once it is true. Raises StackError naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() >= deadline:
            raise StackError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(every_s)
    return result


@dataclass
class Member:
    """One member with their own API client and their own docker configuration (never ~/.docker)."""

    env: Environment
    username: str
    token: str
    docker_host: str = ""
    api: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.api = httpx.Client(
            base_url=f"{self.env.portal_url}/api/v1",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
            # The environment's proxies are for the way out, and this never leaves the machine.
            trust_env=False,
        )

    @property
    def docker_env(self) -> dict[str, str]:
        config = self.env.part_directory("docker-config") / self.username
        config.mkdir(exist_ok=True)
        host = {"DOCKER_HOST": self.docker_host} if self.docker_host else {}
        return {**os.environ, "DOCKER_CONFIG": str(config), **host}

    def docker(self, *arguments: str, stdin: str = "") -> str:
        return sample.docker(list(arguments), env=self.docker_env, stdin=stdin)

    def login(self) -> None:
        registry = self.env.registry_public
        self.docker("login", registry, "--username", self.username, "--password-stdin", stdin=self.token)

    def push_sample(self, app: str, version: str, *, dockerfile: str = "") -> str:
        """Build the sample image and push it as the app's version. Returns the reference that was pushed."""
        reference = f"{self.env.registry_public}/{app}:{version}"
        sample.build(reference, env=self.docker_env, dockerfile=dockerfile)
        self.docker("push", reference)
        return reference

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Raises StackError with the problem's code and detail."""
        reply = self.api.request(method, path, json=body)
        if reply.is_error:
            raise StackError(f"{method} {path} gave {reply.status_code}: {reply.text[:500]}")
        return reply.json()

    def app_create(self, tenant: str, slug: str) -> Any:
        return self.request("POST", "apps/", {"tenant": tenant, "slug": slug})

    def version_wait(self, app: str, version: str) -> None:
        def known() -> bool:
            found = self.request("GET", f"apps/{app}/versions/")["results"]
            return any(one["tag"] == version for one in found)

        wait_for(f"the registry's word of {app}:{version}", known, 70)

    def deploy(self, app: str, version: str, *, wait_s: float = 120, **settings: Any) -> Any:
        """Deploy and wait for the rollout's end, whatever it is. Returns the rollout."""
        started = self.request("POST", f"apps/{app}/rollouts/", {"version": version, **settings})
        return self.rollout_wait(app, started["number"], wait_s)

    def undeploy(self, app: str, *, wait_s: float = 120) -> Any:
        started = self.request("POST", f"apps/{app}/undeploy/")
        return self.rollout_wait(app, started["number"], wait_s)

    def rollout_wait(self, app: str, number: int, wait_s: float = 120) -> Any:
        def ended() -> Any:
            rollout = self.request("GET", f"apps/{app}/rollouts/{number}/")
            return None if rollout["status"] in OPEN else rollout

        return wait_for(f"rollout {number} of {app} to end", ended, wait_s)

    def instances(self, app: str, status: str = "healthy") -> list[Any]:
        found = self.request("GET", f"apps/{app}/instances/")["results"]
        return [one for one in found if one["status"] == status and not one["released"]]


def gateway_get(env: Environment, app: str, path: str = "/", timeout_s: float = 5) -> httpx.Response:
    """Fetch from the gateway by host name; *.localhost needs no DNS this way."""
    with httpx.Client(trust_env=False, timeout=timeout_s) as client:
        return client.get(
            f"http://127.0.0.1:{env.ports['gateway']}{path}",
            headers={"Host": f"{app}.localhost:{env.ports['gateway']}"},
        )


def size_of_machine() -> tuple[int, int]:
    """Memory in MiB and CPU in thousandths of a core that a demo may hand out: half of the memory, all cores."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1024, pages // 2 // 2**20), (os.cpu_count() or 1) * 1000


def remove_leftovers(platform: str, env: Mapping[str, str]) -> int:
    """Remove the containers and networks of one platform from an engine. Returns how many containers."""
    label = f"label=berth.platform={platform}"
    containers = sample.docker(["ps", "--all", "--quiet", "--filter", label], env=env).split()
    if containers:
        sample.docker(["rm", "--force", "--volumes", *containers], env=env)
    networks = sample.docker(["network", "ls", "--quiet", "--filter", label], env=env).split()
    if networks:
        sample.docker(["network", "rm", *networks], env=env)
    return len(containers)
