"""Whether the platform's own images run on it: built, pushed, deployed over the API, asked, and looked at from inside.

    python -m benchmarks.base_images                 (make check-base-images; root, podman, a Debian mirror)
    python -m benchmarks.base_images --scratch DIR   layers of an earlier build are used again

Real parts: one dockerd, all of the platform. Not a part of bin/test, since it downloads Debian's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import ROOT, report, tell
from stack.environment import root_directory
from stack.journey import Member, gateway_get, wait_for
from stack.parts.base import StackError
from stack.platform import Platform, whole_platform

TENANT = "images"
#: As the images' Dockerfiles say.
USER = "65532:65532"
_WRONG = "not-the-password"
_NODE = "require('http').createServer((q, s) => s.end('node')).listen(process.env.PORT)"
#: What the ones that are begun with are given to run. None has a RUN: a build on a host has no way out.
BEGUN = {
    "python": ("3.11", 'CMD ["/bin/sh", "-c", "exec python3 -m http.server $PORT"]', "/"),
    "node": ("18", f'CMD ["node", "-e", "{_NODE}"]', "/"),
    # It speaks its own protocol: what is asked is whether it takes connections.
    "openjdk": ("17", 'CMD ["/bin/sh", "-c", "exec rmiregistry $PORT"]', ""),
}


class Wrong(Exception):
    """An image that does not do what it is for; says which, and what it did."""


def sure(holds: object, said: str) -> None:
    if not holds:
        raise Wrong(said)


class Inside:
    """One running instance, as the engine of its host sees it."""

    def __init__(self, member: Member, container: str) -> None:
        self._member = member
        self.id = container

    def run(self, *command: str, **env: str) -> str:
        """What it printed. Raises StackError where it failed."""
        given = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        return self._member.docker("exec", *given, self.id, *command).strip()

    def refuses(self, *command: str, **env: str) -> str:
        """What it said when it was not let in. Raises Wrong where it was."""
        try:
            said = self.run(*command, **env)
        except StackError as error:
            return str(error)
        raise Wrong(f"{command[0]} was let in without a password: {said[:200]}")

    def walls(self, memory_mb: int) -> dict[str, Any]:
        """How it is shut in, of the engine and of the kernel. Raises Wrong for a wall that is missing."""
        (told,) = json.loads(self._member.docker("inspect", self.id))
        status = dict(re.findall(r"(\w+):\t(.*)", self.run("cat", "/proc/1/status")))
        limits = told["HostConfig"]
        found = {
            "capabilities": [status[name] for name in ("CapEff", "CapPrm", "CapBnd")],
            "no_new_privileges": status["NoNewPrivs"],
            "seccomp": status["Seccomp"],
            "uid": status["Uid"].split()[0],
            "memory_mb": limits["Memory"] // 2**20,
            "pids": limits["PidsLimit"],
            "privileged": limits["Privileged"],
            "restarts": told["RestartCount"],
        }
        sure(all(int(one, 16) == 0 for one in found["capabilities"]), f"{self.id[:12]} has capabilities: {found}")
        sure(found["uid"] == USER.partition(":")[0], f"it runs as {found['uid']}")
        sure(found["no_new_privileges"] == "1" and found["seccomp"] == "2", f"a wall is missing: {found}")
        sure(found["memory_mb"] == memory_mb and found["pids"] and not found["privileged"], f"limits: {found}")
        return found


def built(platform: Platform, scratch: Path | None) -> float:
    """``make base-images``, for this platform. Returns seconds."""
    began = time.perf_counter()
    more = ["--scratch", str(scratch)] if scratch else []
    done = subprocess.run(
        [sys.executable, "manage.py", "base_images", *more],
        cwd=ROOT,
        env={**os.environ, **platform.env.variables(), "BERTH_LOG_LEVEL": "WARNING"},
        stdout=sys.stderr,
        check=False,
    )
    sure(not done.returncode, "manage.py base_images failed")
    return time.perf_counter() - began


def from_api(member: Member, image: dict[str, Any]) -> dict[str, Any]:
    """Make the app, and wait for its first rollout. Returns what the API told at first."""
    slug = f"check-{image['name']}"
    made: dict[str, Any] = member.request(
        "POST", "base-images/apps/", {"tenant": TENANT, "slug": slug, "image": image["name"]}
    )

    def copied() -> Any:
        one = member.request("GET", f"apps/{slug}/imports/{made['copy']['id']}/")
        return one if one["status"] in {"done", "failed", "expired"} else None

    copy = wait_for(f"the copy of {image['name']}", copied, 180)
    sure(copy["status"] == "done", f"{slug}: {copy['code']} {copy['detail']}")
    wait_for(f"the rollout of {slug}", lambda: member.request("GET", f"apps/{slug}/rollouts/")["results"], 60)
    rollout = member.rollout_wait(slug, 1, 180)
    sure(rollout["status"] == "succeeded", f"{slug}: {rollout['status']} {rollout['code']} {rollout['reason']}")
    return made


def redis(inside: Inside, made: dict[str, Any]) -> None:
    password = made["generated"]["REDIS_PASSWORD"]
    sure("NOAUTH" in inside.run("redis-cli", "get", "x"), "redis answers without a password")
    # It only warns of a password that is refused, and goes on without.
    sure("NOAUTH" in inside.run("redis-cli", "get", "x", REDISCLI_AUTH=_WRONG), "redis takes any password")
    sure(inside.run("redis-cli", "set", "x", "kept", REDISCLI_AUTH=password) == "OK", "redis sets nothing")
    sure(inside.run("redis-cli", "get", "x", REDISCLI_AUTH=password) == "kept", "redis forgot")


def postgresql(inside: Inside, made: dict[str, Any]) -> None:
    password = made["generated"]["POSTGRES_PASSWORD"]
    ask = ["psql", "-w", "-h", "127.0.0.1", "-U", "postgres", "-d", "app", "-Atc"]
    said = inside.refuses(*ask, "select 1", PGPASSWORD="")
    sure("no password supplied" in said, said)
    sure("authentication failed" in inside.refuses(*ask, "select 1", PGPASSWORD=_WRONG), "any password")
    inside.run(*ask, "create table t (v text); insert into t values ('kept')", PGPASSWORD=password)
    sure(inside.run(*ask, "select v from t", PGPASSWORD=password) == "kept", "postgresql forgot")


def mariadb(inside: Inside, made: dict[str, Any]) -> None:
    password = made["generated"]["MARIADB_PASSWORD"]
    ask = ["mariadb", "--no-defaults", "-h", "127.0.0.1", "-u", "app", "-N", "app", "-e"]
    sure("Access denied" in inside.refuses(*ask, "select 1", MYSQL_PWD=""), "mariadb answers without a password")
    sure("Access denied" in inside.refuses(*ask, "select 1", MYSQL_PWD=_WRONG), "any password")
    inside.run(*ask, "create table t (v text); insert into t values ('kept')", MYSQL_PWD=password)
    sure(inside.run(*ask, "select v from t", MYSQL_PWD=password) == "kept", "mariadb forgot")


def nginx(inside: Inside, made: dict[str, Any]) -> None:
    sure(not made["generated"], "nginx has no use for a password")
    sure("nginx: worker" in inside.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"), "nginx has no workers")


ASKED: dict[str, Callable[[Inside, dict[str, Any]], None]] = {
    "redis": redis,
    "postgresql": postgresql,
    "mariadb": mariadb,
    "nginx": nginx,
}


def answers(platform: Platform, slug: str) -> str:
    """What the gateway gives of it, once it gives anything."""

    def asked() -> httpx.Response | None:
        reply = gateway_get(platform.env, slug)
        return reply if reply.status_code == 200 else None

    return str(wait_for(f"{slug} to answer through the gateway", asked, 30).text)


def of_one(platform: Platform, member: Member, slug: str) -> Inside:
    (instance,) = member.instances(slug)
    (container,) = platform.labelled(0, slug, all_=False)
    sure(instance["container_id"] == container, f"{slug}: another container runs")
    return Inside(member, container)


def as_apps(platform: Platform, member: Member) -> dict[str, Any]:
    """Those that run as they are."""
    found: dict[str, Any] = {}
    offered = [one for one in member.api.get("base-images/").json() if one["app"]]
    sure({one["name"] for one in offered} == set(ASKED), "an image has no question here: add it to ASKED")
    for image in offered:
        began = time.perf_counter()
        made = from_api(member, image)
        took = time.perf_counter() - began
        slug = made["app"]["slug"]
        inside = of_one(platform, member, slug)
        (release,) = member.request("GET", f"apps/{slug}/releases/")["results"]
        found[image["name"]] = {"ready_s": round(took, 1), **inside.walls(release["memory_mb"])}
        ASKED[image["name"]](inside, made)
        for secret in made["generated"].values():
            shown = json.dumps([release, member.request("GET", f"apps/{slug}/events/")]) + member.docker(
                "logs", inside.id
            )
            sure(secret not in shown, f"{slug}: its password is shown")
        if image["protocol"] == "http":
            sure("<title>nginx</title>" in answers(platform, slug), f"{slug}: not its page")
        sure(member.undeploy(slug)["status"] == "succeeded", f"{slug} does not end")
        tell(f"{image['name']}: {took:.1f} s until ready")
    return found


def as_bases(platform: Platform, member: Member) -> dict[str, Any]:
    """Those that a Dockerfile begins with: one is built on the host, without signing in for the base."""
    found: dict[str, Any] = {}
    for name, (tag, command, path) in BEGUN.items():
        slug = f"begun-{name}"
        member.app_create(TENANT, slug)
        text = f"FROM {platform.env.registry_public}/base-{name}:{tag}\n{command}\n"
        member.push_sample(slug, "1.0", dockerfile=text)
        member.version_wait(slug, "1.0")
        rollout = member.deploy(slug, "1.0", memory_mb=128, cpu_millis=100, health_path=path)
        sure(rollout["status"] == "succeeded", f"{slug}: {rollout['code']} {rollout['reason']}")
        found[name] = of_one(platform, member, slug).walls(128)
        if path:
            answers(platform, slug)
        member.undeploy(slug)
        tell(f"{name}: runs")
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scratch", type=Path, default=ROOT / "var" / "base-images", help="where layers are kept")
    given = arguments.parse_args()
    with whole_platform(root_directory() / "check-base-images", [TENANT], hosts=1, say=tell) as platform:
        took = built(platform, given.scratch)
        member = platform.member(TENANT, "owner")
        member.login()
        apps, bases = as_apps(platform, member), as_bases(platform, member)
    figures = {"build_and_push_s": round(took, 1), **{f"{name}_ready_s": one["ready_s"] for name, one in apps.items()}}
    report("base_images", figures, {"apps": apps, "bases": bases})


if __name__ == "__main__":
    main()
