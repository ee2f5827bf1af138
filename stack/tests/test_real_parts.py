"""The third-party parts themselves. They need root and the Debian packages: bin/setup.sh installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis as redis_client
from kazoo.client import KazooClient

from stack import network, probes
from stack.catalogue import build
from stack.environment import Environment
from stack.hosts import DockerHost, DockerHosts
from stack.parts.registry import registry
from stack.processes import alive, descendants, marked, wait_until
from stack.runner import Stack

pytestmark = pytest.mark.real
IMAGE = 'FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT ["/bin/busybox"]\n'


def docker(host: DockerHost, *arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_HOST": host.docker_host, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout.strip()


def build_image(host: DockerHost, directory: Path) -> str:
    context = directory / "image"
    context.mkdir(exist_ok=True)
    shutil.copy("/bin/busybox", context)
    (context / "Dockerfile").write_text(IMAGE)
    docker(host, "build", "--quiet", "--tag", "busybox:test", str(context))
    return "busybox:test"


def serve(host: DockerHost, image: str, port: int) -> str:
    """A container that answers HTTP (404) at the port; ignores SIGTERM as the first process of a container."""
    return docker(host, "run", "--detach", "--publish", f"{port}:80", image, "httpd", "-f", "-p", "80")


def answers(host: DockerHost, port: int) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return probes.http_status(port, "/", address=host.address) == 404
        except OSError:
            return False

    return ask


@dataclass
class World:
    env: Environment
    hosts: list[DockerHost]
    stack: Stack


@pytest.fixture
def world(directory: Path) -> Iterator[World]:
    env = Environment.open(directory)
    hosts = DockerHosts(env, 2)
    parts = [registry(env, token_auth=False), *hosts.parts]
    with Stack(env.directory, parts) as stack:
        yield World(env, hosts.hosts, stack)
    assert marked(env.id) == []
    assert network.leftovers(env.id) == []
    assert str(env.directory) not in Path("/proc/mounts").read_text()


def test_redis_zookeeper_and_postgres_serve_with_the_variables_they_are_announced_by(directory: Path) -> None:
    env = Environment.open(directory)
    variables = env.variables()
    with Stack(env.directory, build(env, ["postgres", "redis", "zookeeper", "registry"])):
        with redis_client.Redis.from_url(variables["BERTH_REDIS_URL"]) as client:
            assert client.ping()
        without = redis_client.Redis.from_url(f"redis://127.0.0.1:{env.ports['redis']}/0")
        with without, pytest.raises(redis_client.AuthenticationError):
            without.ping()
        zookeeper = KazooClient(hosts=variables["BERTH_ZOOKEEPER"])
        zookeeper.start(timeout=10)
        zookeeper.add_auth("digest", variables["BERTH_ZOOKEEPER_PUBLISHER"])
        zookeeper.create("/there", b"x")
        zookeeper.stop()
        zookeeper.close()
        url = variables["DATABASE_URL"].replace("postgres://", "postgresql://")
        with psycopg.connect(url) as connection:
            assert connection.execute("show fsync").fetchone() == ("off",)
        trusted = probes.trusting(Path(variables["BERTH_REGISTRY_CA"]))
        # Token authentication is on: a stranger is refused.
        assert probes.https_status("127.0.0.1", env.ports["registry"], "/v2/", trusted) == 401
    assert marked(env.id) == []
    # The directory can be started again, with the data that is in it.
    with Stack(env.directory, build(env, ["postgres"])), psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_container_of_a_host_is_reached_from_here_and_its_image_from_the_other_host(world: World) -> None:
    first, second = world.hosts
    image = build_image(first, world.env.directory)
    serve(first, image, 20080)
    assert wait_until(answers(first, 20080), 20)

    # By the bridge's address with the environment's own authority, and by localhost.
    for name in (world.env.registry_public, f"localhost:{world.env.ports['registry']}"):
        reference = f"{name}/some/app:{len(name)}"
        docker(first, "tag", image, reference)
        docker(first, "push", reference)
        docker(second, "pull", reference)
    serve(second, reference, 20081)
    assert wait_until(answers(second, 20081), 20)


def test_the_api_wants_a_client_certificate(world: World) -> None:
    host = world.hosts[0]
    assert host.answers()
    with pytest.raises(OSError, match=r"(?i)certificate|alert|reset"):
        probes.https_status(host.address, 2376, "/_ping", probes.trusting(host.tls.ca))


def test_no_container_survives_a_killed_dockerd_and_the_host_comes_back(world: World) -> None:
    host = world.hosts[0]
    image = build_image(host, world.env.directory)
    serve(host, image, 20080)
    assert wait_until(answers(host, 20080), 20)
    below = descendants(world.stack.pid(host.part))
    assert len(below) > 3
    os.kill(host.dockerd_pid(), 9)
    assert wait_until(lambda: not any(map(alive, below)), 20)
    assert not host.answers()
    assert world.hosts[1].answers()
    world.stack.start_part(host.part)
    docker(host, "start", docker(host, "ps", "--all", "--quiet"))
    assert wait_until(answers(host, 20080), 20)


def test_a_cut_host_is_unreachable_and_runs_on(world: World) -> None:
    host = world.hosts[0]
    image = build_image(host, world.env.directory)
    serve(host, image, 20080)
    assert wait_until(answers(host, 20080), 20)
    host.cut()
    assert not answers(host, 20080)()
    assert not host.answers()
    assert docker(host, "ps", "--quiet")
    host.restore()
    assert wait_until(answers(host, 20080), 20)


def test_what_killed_processes_left_behind_is_cleared_at_the_next_start(world: World) -> None:
    host = world.hosts[0]
    serve(host, build_image(host, world.env.directory), 20080)
    for pid in marked(world.env.id):
        if "supervisord" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, 9)
    # Neither supervisord nor its runner ends them: the hosts and their network are still there.
    assert host.answers()
    other = Stack(world.env.directory, [])
    other.stop()
    assert marked(world.env.id) == []
    assert network.leftovers(world.env.id) == []


def test_two_environments_do_not_meet(world: World, tmp_path: Path) -> None:
    env = Environment.open(tmp_path / "other")
    hosts = DockerHosts(env, 1)
    with Stack(env.directory, hosts.parts):
        assert hosts.hosts[0].answers()
        assert env.subnet != world.env.subnet
    assert all(host.answers() for host in world.hosts)
