"""Berth on this machine, whole. A start: the third-party parts, and a container through the registry's host."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from stack import sample
from stack.catalogue import build
from stack.engine import find_engine
from stack.environment import Environment, root_directory
from stack.hosts import DockerHosts
from stack.interrupts import terminate_as_interrupt
from stack.parts.base import Part, StackError
from stack.runner import Stack


def _say(line: str) -> None:
    print(line, flush=True)


def run(*, leave: bool) -> None:
    """Raises StackError when a step fails; whatever it started is stopped in any case."""
    began = time.monotonic()
    env = Environment.open(root_directory() / "demo", "demo")
    parts: list[Part] = build(env, ["redis", "zookeeper", "registry"])
    found = find_engine()
    if found is None:
        hosts = DockerHosts(env, 1, egress=True)
        parts += hosts.parts
        docker_host = hosts.hosts[0].docker_host
    else:
        _say(f"using the Docker Engine at {found}")
        docker_host = f"unix://{found}"
    with Stack(env.directory, parts, say=_say) as stack:
        docker_env = {**os.environ, "DOCKER_HOST": docker_host}
        sample.build("berth-sample:demo", env=docker_env)
        said = sample.docker(
            ["run", "--rm", "--entrypoint", "/bin/busybox", "berth-sample:demo", "echo", "a container ran"],
            env=docker_env,
        )
        _say(said.strip())
        _say(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C stops everything")
        while not leave and not stack.dead_parts():
            signal.sigtimedwait([], 1.0)
        if dead := stack.dead_parts():
            raise StackError(f"these ended by themselves: {dead}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="stop after the app has answered")
    arguments = parser.parse_args(argv)
    try:
        with terminate_as_interrupt():
            run(leave=arguments.exit)
    except StackError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("stopped")
        return 130 if arguments.exit else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
