"""Redis: the Celery broker. Keeps nothing on disk: a lost message is only a lost nudge (design, section 3)."""

from __future__ import annotations

from stack import probes
from stack.environment import Environment
from stack.parts.base import Need, Part, program
from stack.pki import write_private


def redis(env: Environment) -> Part:
    directory = env.part_directory("redis")
    config = directory / "redis.conf"
    port = env.ports["redis"]
    password = env.secrets["redis_password"]

    def prepare() -> None:
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            # Without a password every user of the machine could send tasks to the workers.
            f"requirepass {password}",
            'save ""',
            "appendonly no",
            f"dir {directory}",
            # Rewriting the title would overwrite the environment by which the runner knows its processes.
            "set-proc-title no",
        ]
        write_private(config, ("\n".join(lines) + "\n").encode())

    def ready() -> bool:
        return probes.exchange(port, f"AUTH {password}\r\nPING\r\n".encode(), b"+PONG")

    return Part(
        name="redis",
        argv=[program("redis-server"), str(config)],
        ready=ready,
        cwd=directory,
        needs=[Need("redis-server", "redis-server")],
        ports=[env.port("redis", "redis (Celery's broker)")],
        prepare=prepare,
    )
