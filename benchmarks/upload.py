"""How much memory the portal and the workers need while an image archive of 1 GiB is sent, checked and pushed.

    python -m benchmarks.upload             (make bench-upload; about a minute)
    python -m benchmarks.upload --mib 64    to see that it runs

The whole control plane with real parts: PostgreSQL, Redis, ZooKeeper, the registry, the portal under gunicorn, beat and
the Celery workers. The archive holds one layer that cannot be compressed, so that every byte of it is received, hashed
and pushed. Resident memory of every process of a part, together, against what it was before.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.report import report, tell
from stack.catalogue import build
from stack.environment import Environment, root_directory
from stack.journey import Member, seed, wait_for
from stack.platform import STATE
from stack.processes import descendants
from stack.runner import Stack
from tests.archives import make_big

PARTS = ("postgres", "redis", "zookeeper", "registry", "web", "worker", "transfers", "registry-worker", "beat")
WATCHED = ("web", "worker", "transfers", "registry-worker")
ENDED = {"done", "failed", "expired"}
LIMIT_MB = 150
MIB = 1 << 20


def _rss(pid: int) -> int:
    """Anonymous memory and what is mapped of files, in bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


class Watch:
    """The memory of our processes while a block lasts; of each part all its processes together."""

    def __init__(self, stack: Stack) -> None:
        self._pids = {name: [stack.pid(name), *descendants(stack.pid(name))] for name in WATCHED}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.before = self._now()
        self.most = dict(self.before)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth_mb(self) -> dict[str, float]:
        return {name: round((self.most[name] - self.before[name]) / MIB, 1) for name in WATCHED}

    def _now(self) -> dict[str, int]:
        return {name: sum(map(_rss, pids)) for name, pids in self._pids.items()}

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for name, used in self._now().items():
                self.most[name] = max(self.most[name], used)


def _sent(member: Member, path: Path, tag: str) -> tuple[Any, float, float]:
    """The ended upload, the seconds until it was received, and those until it had ended."""

    def parts() -> Iterator[bytes]:
        with path.open("rb") as source:
            while part := source.read(1 << 18):
                yield part

    began = time.monotonic()
    answer = member.api.put(
        "apps/big/uploads/",
        params={"tag": tag},
        content=parts(),
        headers={"Content-Length": str(path.stat().st_size), "Content-Type": "application/x-tar"},
        timeout=600,
    )
    answer.raise_for_status()
    received = time.monotonic() - began

    def ended() -> Any:
        told = member.request("GET", f"apps/big/uploads/{answer.json()['id']}/")
        return told if told["status"] in ENDED else None

    told = wait_for("the upload's end", ended, 600)
    return told, received, time.monotonic() - began


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--mib", type=int, default=1024)
    mib = given.parse_args().mib
    env = Environment.open(root_directory() / "bench-upload", "test")
    with (
        tempfile.TemporaryDirectory(prefix="berth-upload-") as scratch,
        Stack(env.directory, build(env, PARTS), say=tell, forget=STATE) as stack,
    ):
        (owner,) = [one for one in seed(env, ("bench",), [])["tenants"]["bench"] if one["role"] == "owner"]
        member = Member(env, owner["username"], owner["token"])
        member.app_create("bench", "big")
        warm, big = Path(scratch) / "warm.tar", Path(scratch) / "big.tar"
        make_big(warm, 8 * MIB)
        make_big(big, mib * MIB)
        # What a process loads for its first upload is no matter of the upload's size.
        tell("a small one first")
        assert _sent(member, warm, "warm")[0]["status"] == "done"
        tell(f"{mib} MiB")
        with Watch(stack) as watch:
            upload, received_s, ended_s = _sent(member, big, "big")
        assert upload["status"] == "done", upload
    growth = watch.growth_mb
    figures = {
        "archive_mib": float(mib),
        "received_s": round(received_s, 1),
        "done_s": round(ended_s, 1),
        "portal_growth_mib": growth["web"],
        "workers_growth_mib": round(growth["worker"] + growth["transfers"] + growth["registry-worker"], 1),
        "limit_mib": float(LIMIT_MB),
    }
    idle = {name: round(used / MIB, 1) for name, used in watch.before.items()}
    report("upload", figures, {"idle_mib": idle, "growth_mib": growth, "image_bytes": upload["image_bytes"]})
    assert max(figures["portal_growth_mib"], figures["workers_growth_mib"]) < LIMIT_MB, growth


if __name__ == "__main__":
    main()
