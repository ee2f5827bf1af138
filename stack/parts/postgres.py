"""PostgreSQL, for the tests: it loses data at a power cut and never waits for a disk; for benchmarks as it comes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from stack.environment import Environment
from stack.parts.base import Need, Part, StackError, is_root, program

_USER = "postgres"
_CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # No Unix socket: its path would have to fit in 107 bytes and be reachable for the server's own user.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def postgres(env: Environment, *, durable: bool = False) -> Part:
    """``durable``: each commit waits for the disk, as on a machine whose data matters."""
    port = env.ports["postgres"]
    password = env.secrets["postgres_password"]
    data = _data_directory(env)
    address = f"host=127.0.0.1 port={port} user=berth password={password} connect_timeout=2"

    def prepare() -> None:
        # A leftover of a killed server; its pid may be another program's by now. The runner has ended ours.
        (data / "postmaster.pid").unlink(missing_ok=True)
        if (data / "PG_VERSION").exists():
            return
        _initialise(data, password)

    def ready() -> bool:
        try:
            with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as connection:
                found = connection.execute("select 1 from pg_database where datname = 'berth'").fetchone()
                if found is None:
                    connection.execute(sql.SQL("create database berth"))
        except psycopg.Error as error:
            raise ConnectionError(str(error)) from error
        return True

    chosen = _SETTINGS if durable else {**_CARELESS, **_SETTINGS}
    options = [word for key, value in chosen.items() for word in ("-c", f"{key}={value}")]
    return Part(
        name="postgres",
        argv=[program("postgres"), "-D", str(data), "-p", str(port), *options],
        ready=ready,
        cwd=Path("/"),
        user=_USER if is_root() else None,
        needs=[Need("postgres", "postgresql"), Need("initdb", "postgresql"), Need("runuser", "util-linux")],
        ports=[env.port("postgres", "postgres (the tests' database)")],
        prepare=prepare,
        # "Fast": ends sessions instead of waiting for them (PostgreSQL 15, "Shutting Down the Server").
        stop_signal="INT",
        hint="If it complains about its data directory, stop the stack and remove that directory.",
    )


def _as_server_user(argv: list[str]) -> list[str]:
    """The server refuses to run as root, so root lends it a user of its own."""
    return ["runuser", "-u", _USER, "--", *argv] if is_root() else argv


def _data_directory(env: Environment) -> Path:
    """Under the environment where the server's user can get there; else beside, in the system's /var/tmp.

    A checkout in /root, which nobody else may enter, is such a case.
    """
    inside = env.directory / "postgres"
    if not is_root() or _passable(env.directory):
        return inside
    return Path("/var/tmp") / f"berth-{env.id}-postgres"  # noqa: S108 - made with mode 0700 and checked below


def _passable(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


def _initialise(data: Path, password: str) -> None:
    if is_root():
        known = subprocess.run(["id", "-u", _USER], capture_output=True, check=False)
        if known.returncode:
            raise StackError("PostgreSQL must not run as root and there is no user 'postgres': install postgresql")
    if data.exists():
        # An initdb that was killed half-way: PG_VERSION is among its first files, but not certain.
        shutil.rmtree(data)
    data.mkdir(mode=0o700)
    if is_root():
        shutil.chown(data, _USER, _USER)
    with tempfile.NamedTemporaryFile("w", prefix="berth-pw-") as file:
        file.write(password)
        file.flush()
        if is_root():
            shutil.chown(file.name, _USER)
        argv = [
            program("initdb"),
            f"--pgdata={data}",
            "--username=berth",
            f"--pwfile={file.name}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        done = subprocess.run(
            _as_server_user(argv),
            cwd="/",
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    if done.returncode:
        shutil.rmtree(data, ignore_errors=True)
        raise StackError(f"initdb failed in {data}:\n{done.stdout}{done.stderr}")
