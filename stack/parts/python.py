"""Berth's own processes: the portal, the Celery workers and beat, the watcher, and the gateway's agent."""

from __future__ import annotations

import os
import subprocess
import sys

from celery import Celery

from stack import ports, probes
from stack.environment import ROOT, Environment
from stack.parts.base import Need, Part, PartFailed, Port


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def manage(env: Environment, *arguments: str, stdin: str = "") -> str:
    """``manage.py`` in the environment, with this on its standard input. Raises PartFailed with its last lines."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env={**os.environ, **env.variables(), "BERTH_LOG_LEVEL": "WARNING"},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        raise PartFailed(f"manage.py {arguments[0]} failed ({result.returncode}):\n{tail}")
    return result.stdout


def web(env: Environment, *, workers: int = 2) -> Part:
    port = env.ports["portal"]

    def prepare() -> None:
        manage(env, "migrate", "--no-input", "--verbosity=0")
        manage(env, "collectstatic", "--no-input", "--verbosity=0")

    return Part(
        name="web",
        argv=_python(
            "gunicorn",
            "--config=python:portal.gunicorn_conf",
            "portal.asgi:application",
            f"--workers={workers}",
            f"--bind=127.0.0.1:{port}",
            f"--worker-tmp-dir={env.part_directory('web')}",
        ),
        ready=lambda: probes.http_status(port, "/healthz") == 200,
        env=env.variables(),
        cwd=ROOT,
        ports=[env.port("portal", "web (the portal)")],
        after=("postgres", "redis", "zookeeper"),
        prepare=prepare,
        stop_wait_s=15,
        autorestart=True,
        start_wait_s=60,
    )


def worker(env: Environment, *, concurrency: int = 2) -> Part:
    """The loop: sweeps, apps, discovery. Quick tasks that wait for no engine."""
    return _worker(env, "worker", "duties,celery", concurrency)


def engines_worker(env: Environment, *, concurrency: int = 16) -> Part:
    """What talks to engines, and so may be kept waiting by a host, an image or an app that is slow to stop.

    Threads, since it does little else than wait: enough of them that hosts which hang leave some for the others.
    """
    return _worker(env, "engines", "engines", concurrency, "--pool=threads")


def hosts_worker(env: Environment, *, concurrency: int = 16) -> Part:
    """What looks at hosts: a thread each, since one that hangs holds its thread until the time-out."""
    return _worker(env, "hosts-worker", "hosts", concurrency, "--pool=threads")


def probes_worker(env: Environment, *, concurrency: int = 8) -> Part:
    """Asks instances how they are: one thread for each shard at work, and one for each that waits for late answers."""
    return _worker(env, "probes", "probes", concurrency, "--pool=threads")


def transfers_worker(env: Environment, *, concurrency: int = 2) -> Part:
    """Pushes archives that were sent to the portal: on the same machine, or with the same directory."""
    return _worker(env, "transfers", "transfers", concurrency, "--pool=threads")


def registry_worker(env: Environment, *, concurrency: int = 4) -> Part:
    """What asks the registry: lists, reads and deletes what it holds."""
    return _worker(env, "registry-worker", "registry", concurrency, "--pool=threads")


def _worker(env: Environment, part: str, queue: str, concurrency: int, *more: str) -> Part:
    variables = env.variables()
    name = f"{part}@{env.id}"

    def ready() -> bool:
        return _answers_ping(variables["BERTH_REDIS_URL"], name)

    return Part(
        name=part,
        argv=_python(
            "celery",
            "--quiet",
            "--app=workers.celery",
            "worker",
            f"--hostname={name}",
            f"--concurrency={concurrency}",
            "--loglevel=INFO",
            f"--queues={queue}",
            # Workers need not know of each other, and one that is killed is back a second earlier.
            "--without-mingle",
            "--without-gossip",
            *more,
        ),
        ready=ready,
        env=variables,
        cwd=ROOT,
        # The tables are made when web is prepared.
        after=("redis", "web"),
        # A warm stop lets running tasks end; after it the lease lets another worker go on with them.
        stop_wait_s=20,
        autorestart=True,
        start_wait_s=60,
    )


def _answers_ping(broker: str, name: str) -> bool:
    """Asks over Celery's own remote control: the one sign that it consumes, whatever it logs."""
    with Celery(broker=broker, set_as_current=False) as client:
        try:
            return bool(client.control.ping(destination=[name], timeout=0.5, limit=1))
        except Exception as error:  # kombu's errors have no common base
            raise ConnectionError(str(error)) from error


def beat(env: Environment) -> Part:
    directory = env.part_directory("beat")

    def prepare() -> None:
        # A schedule file that a kill left half-written stops beat at its start; it is only a memory of times.
        for path in directory.glob("schedule*"):
            path.unlink()

    return Part(
        name="beat",
        argv=_python(
            "celery",
            "--quiet",
            "--app=workers.celery",
            "beat",
            f"--schedule={directory / 'schedule'}",
            "--pidfile=",
            "--loglevel=INFO",
        ),
        # Beat listens on nothing; that it stays up is what can be known, and supervisord watches that.
        ready=lambda: any(directory.glob("schedule*")),
        env=env.variables(),
        cwd=ROOT,
        after=("redis", "web"),
        prepare=prepare,
        autorestart=True,
        start_wait_s=60,
    )


def watcher(env: Environment) -> Part:
    """Follows the engines' events."""
    heartbeat = env.part_directory("watcher") / "heartbeat"

    return Part(
        name="watcher",
        argv=[sys.executable, str(ROOT / "manage.py"), "watch_engines", f"--heartbeat={heartbeat}"],
        # It listens on nothing; the file says that it took its part of the hosts.
        ready=heartbeat.exists,
        env=env.variables(),
        cwd=ROOT,
        after=("redis", "web"),
        prepare=lambda: heartbeat.unlink(missing_ok=True),
        autorestart=True,
        start_wait_s=60,
    )


def collector(env: Environment, *, every_s: int = 3600) -> Part:
    """Gives back what the registry stores and nothing names. On the registry's machine, which here is this one."""
    return Part(
        name="collector",
        argv=[
            *(sys.executable, str(ROOT / "manage.py"), "registry_collect"),
            *("--config", str(env.part_directory("registry") / "config.yml"), "--every", str(every_s)),
        ],
        # It listens on nothing, and has nothing to do for hours; supervisord sees to it that it stays up.
        ready=lambda: True,
        env=env.variables(),
        cwd=ROOT,
        after=("registry", "web"),
        autorestart=True,
    )


def gateway(env: Environment) -> Part:
    def ready() -> bool:
        return probes.tcp(env.ports["gateway_status"]) and probes.tcp(env.ports["gateway"])

    return Part(
        name="gateway",
        argv=_python("gateway"),
        ready=ready,
        env=env.variables(),
        cwd=ROOT,
        needs=[Need("haproxy", "haproxy")],
        ports=[
            env.port("gateway", "gateway (the apps' addresses)"),
            env.port("gateway_status", "gateway (its own status)"),
            *(
                Port(number, "gateway (apps of TCP)", ports.TCP_PORTS)
                for number in range(env.tcp_ports[0], env.tcp_ports[1] + 1)
            ),
        ],
        after=("zookeeper",),
        stop_wait_s=15,
        autorestart=True,
        start_wait_s=30,
    )
