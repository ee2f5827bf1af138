"""Berth on this machine, whole: every real part, a tenant with two members, and an app pushed, deployed and answered.

    bin/demo           stays up until Ctrl-C, which stops all that it started and nothing else
    bin/demo --exit    ends after the app has answered; non-zero if any step failed

Each run begins afresh: what an earlier demo held (in var/demo) is forgotten. Images in the engine are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from stack.catalogue import DEFAULTS, build
from stack.engine import find_engine
from stack.environment import Environment, root_directory
from stack.hosts import DockerHosts
from stack.interrupts import terminate_as_interrupt
from stack.journey import Member, gateway_get, remove_leftovers, seed, size_of_machine, wait_for
from stack.parts.base import Part, StackError
from stack.runner import Stack

TENANT = "acme"
APP = "hello"
VERSION = "1.0"
INSTANCES = 2
STEPS = 7
#: What an earlier demo leaves in its directory; secrets, certificates and the engine's images stay.
STATE = (
    *("berth.sqlite3", "berth.sqlite3-shm", "berth.sqlite3-wal", "registry", "zookeeper", "gateway", "beat"),
    "docker-config",
)


class Progress:
    """Numbered lines with the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._step = 0

    def step(self, line: str) -> None:
        self._step += 1
        self.say(f"[{self._step}/{STEPS}] {line}")

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f}s  {line}", flush=True)


def _host(env: Environment) -> tuple[dict[str, Any], list[Part], str]:
    """The Docker host of the demo: the engine that runs here already, else one of our own in a namespace."""
    memory, cpu = size_of_machine()
    size = {"memory_mb": memory, "cpu_millis": cpu}
    found = find_engine()
    if found is not None:
        row = {"name": "this-machine", "address": "127.0.0.1", "engine_url": f"unix://{found}", **size}
        return row, [], f"unix://{found}"
    hosts = DockerHosts(env, 1, egress=True, stop_wait_s=20)
    (host,) = hosts.hosts
    row = {
        "name": host.name,
        "address": host.address,
        "engine_url": host.url,
        "tls_ca": host.tls.ca_pem,
        "tls_certificate": host.tls.cert_pem,
        "tls_key": host.tls.key_pem,
        **size,
    }
    return row, hosts.parts, host.docker_host


@contextlib.contextmanager
def _no_containers_left(env: Environment, docker_env: dict[str, str], *, shared: bool) -> Iterator[None]:
    """On an engine that goes on running, what the demo deployed is removed, before it and after it."""
    if shared:
        remove_leftovers(env.id, docker_env)
    try:
        yield
    finally:
        if shared:
            remove_leftovers(env.id, docker_env)


def run(*, leave: bool) -> None:
    """Raises StackError when a step fails; whatever it started is stopped in any case."""
    progress = Progress()
    env = Environment.open(root_directory() / "demo", "demo")
    row, host_parts, docker_host = _host(env)
    docker_env = {**os.environ, "DOCKER_HOST": docker_host}
    progress.step(f"a Docker Engine {'of our own' if host_parts else 'at ' + docker_host}, and the parts of Berth")
    stack = Stack(env.directory, [*host_parts, *build(env, DEFAULTS["demo"])], say=progress.say, forget=STATE)
    with _no_containers_left(env, docker_env, shared=not host_parts), stack:
        progress.step(f"tenant {TENANT} with two members")
        people = seed(env, [TENANT], [row])
        owner, _ = people["tenants"][TENANT]
        member = Member(env, owner["username"], owner["token"], docker_host=docker_host)
        _deploy(member, env, progress)
        answer = _answer(env, progress)
        _tell(env, people, answer, progress)
        if leave:
            return
        print("\nCtrl-C stops everything.", flush=True)
        while not stack.dead_parts():
            signal.sigtimedwait([], 1.0)
        raise StackError(f"these ended by themselves: {stack.dead_parts()}")


def _deploy(member: Member, env: Environment, progress: Progress) -> None:
    member.app_create(TENANT, APP)
    progress.step(f"docker login {env.registry_public} as {member.username}")
    member.login()
    progress.step(f"docker build and docker push {env.registry_public}/{APP}:{VERSION}")
    member.push_sample(APP, VERSION)
    member.version_wait(APP, VERSION)
    progress.step(f"deploy {INSTANCES} instances over the REST API")
    rollout = member.deploy(
        APP, VERSION, instances=INSTANCES, memory_mb=64, env={"GREETING": "Pushed, deployed, reached."}
    )
    if rollout["status"] != "succeeded":
        raise StackError(f"the rollout {rollout['status']} ({rollout['code']}): {rollout['reason']}")


def _answer(env: Environment, progress: Progress) -> str:
    progress.step(f"fetch http://{APP}.localhost:{env.ports['gateway']}/ through the gateway")

    def answered() -> str | None:
        reply = gateway_get(env, APP)
        return reply.text if reply.status_code == 200 else None

    return str(wait_for("the app's answer through the gateway", answered, 20))


def _tell(env: Environment, people: dict[str, Any], answer: str, progress: Progress) -> None:
    progress.step("everything runs. These credentials are shown once:")
    admin = people["admin"]
    owner, developer = people["tenants"][TENANT]
    lines = [
        "",
        f"  portal   {env.portal_url}/",
        *(f"           {one['username']} / {one['password']}   ({one['role']})" for one in (owner, developer)),
        f"  admin    {env.portal_url}/admin/",
        f"           {admin['username']} / {admin['password']}",
        f"  API      {env.portal_url}/api/docs/   Authorization: Bearer {owner['token']}",
        f"  registry {env.registry_public}   docker login -u {owner['username']}, with that token as password",
        f"  app      http://{APP}.localhost:{env.ports['gateway']}/",
        "",
        f"$ curl http://{APP}.localhost:{env.ports['gateway']}/",
        *answer.rstrip().splitlines(),
    ]
    print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bin/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exit", action="store_true", help="stop after the app has answered")
    arguments = parser.parse_args(argv)
    try:
        with terminate_as_interrupt():
            run(leave=arguments.exit)
    except StackError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 130 if arguments.exit else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
