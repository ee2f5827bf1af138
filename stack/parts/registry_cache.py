"""A second distribution registry that keeps copies of one other: only the workers reach it, on loopback."""

from __future__ import annotations

import json
import os
import urllib.request

from stack.environment import Environment
from stack.parts.base import Need, Part, StackError, program
from stack.pki import write_private

#: The address that is copied from, such as https://registry-1.docker.io.
UPSTREAM = "BERTH_REGISTRY_CACHE_UPSTREAM"


def registry_cache(env: Environment, *, upstream: str = "") -> Part:
    """Keys of the file: distribution 2.8, "Registry as a pull through cache". What it keeps it forgets after a week."""
    upstream = upstream or os.environ.get(UPSTREAM, "")
    if not upstream:
        raise StackError(f"{UPSTREAM} names no registry to keep copies of")
    directory = env.part_directory("registry-cache")
    config = directory / "config.yml"
    port = env.ports["registry_cache"]

    def prepare() -> None:
        settings = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": env.secrets["registry_http"], "relativeurls": True},
            "proxy": {"remoteurl": upstream},
        }
        write_private(config, json.dumps(settings, indent=2).encode())

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    return Part(
        name="registry-cache",
        argv=[program("docker-registry"), "serve", str(config)],
        ready=ready,
        cwd=directory,
        needs=[Need("docker-registry", "docker-registry")],
        ports=[env.port("registry_cache", "cache of another registry")],
        prepare=prepare,
        stop_wait_s=5,
    )
