"""Killing the platform's own processes, and looking at what they left: for the tests that do."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from stack.journey import Member, gateway_get
from stack.parts.python import manage
from stack.platform import Platform
from stack.processes import alive


def failpoints_file(platform: Platform) -> Path:
    return Path(platform.env.variables()["BERTH_FAILPOINTS"])


def forget_hits(platform: Platform) -> None:
    """What an earlier run in the same directory left."""
    path = failpoints_file(platform)
    for one in (path, path.with_name(f"{path.name}.hit")):
        one.unlink(missing_ok=True)


def arm(platform: Platform, lines: list[str]) -> None:
    path = failpoints_file(platform)
    path.touch()
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("".join(f"{line}\n" for line in lines))


def hits(platform: Platform) -> dict[str, int]:
    """Failpoint -> the pid that died there."""
    path = failpoints_file(platform).with_name("failpoints.hit")
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[0]: int(line.split()[1]) for line in lines}


def died(platform: Platform, lines: list[str]) -> bool:
    """Whether each of these failpoints has had its kill."""
    found = hits(platform)
    return all(line in found and not alive(found[line]) for line in lines)


_HELD = """
SELECT
  (SELECT array_agg(container_id ORDER BY container_id) FROM deployments_instance i
     WHERE i.app_id = a.id AND NOT released AND status = 'healthy'),
  (SELECT count(*) FROM deployments_instance i WHERE i.app_id = a.id AND NOT released AND status <> 'healthy'),
  (SELECT count(*) FROM hosts_allocation h JOIN deployments_instance i ON i.uid = h.owner WHERE i.app_id = a.id),
  (SELECT count(*) FROM hosts_portallocation p JOIN deployments_instance i ON i.uid = p.owner
     WHERE i.app_id = a.id AND p.status = 'claimed')
FROM deployments_app a WHERE a.slug = %s
"""


def amiss(platform: Platform, member: Member, app: str, *, wanted: int, greeting: str) -> list[str]:
    """What is not as it should be: instances, containers, claims, and who answers. Empty when the app has settled."""
    with psycopg.connect(platform.env.database_url()) as database:
        row = database.execute(_HELD, [app]).fetchone()
    if row is None:
        return ["there is no such app"]
    healthy, others, allocations, ports = row[0] or [], row[1], row[2], row[3]
    containers = sorted(one for host in range(2) for one in platform.labelled(host, app))
    found = []
    if len(healthy) != wanted or others:
        found.append(f"{len(healthy)} healthy of {wanted}, {others} others")
    if containers != sorted(healthy):
        found.append(f"containers {containers}, instances {healthy}")
    if (allocations, ports) != (wanted, wanted):
        found.append(f"{allocations} allocations and {ports} ports for {wanted} instances")
    answers = Counter(greeting in gateway_get(platform.env, app).text for _ in range(4))
    if answers[False]:
        found.append(f"{answers[False]} of 4 answers are not {greeting!r}")
    return found


def audited(platform: Platform) -> list[Any]:
    """What ``manage.py audit`` finds; it must find nothing."""
    code = (
        "import io, json; from django.core.management import call_command, CommandError; out = io.StringIO()\n"
        "try: call_command('audit', '--json', stdout=out)\nexcept CommandError: pass\nprint(out.getvalue())"
    )
    told = json.loads(manage(platform.env, "shell", "--no-imports", "-c", code).strip().splitlines()[-1])
    return [one for one in told["violations"] if not one["warning"]]
