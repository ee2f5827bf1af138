"""How long a deploy takes while the engines of two other hosts hang (SIGSTOP: they take connections, never answer).

    python -m benchmarks.hung_engines             (make bench-hung-engines; root, about four minutes)
    python -m benchmarks.hung_engines --quick     one short round, to see that it runs

Real parts: three dockerd. An app that is pinned to the third is deployed again and again, in turns with all engines
answering and with two hung: from just after the stop, so the time until the platform notices is in it. Those two hold
instances as well, which the platform goes on trying to look at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.report import report, tell
from stack.environment import root_directory
from stack.journey import Member, wait_for
from stack.platform import Platform, hung, whole_platform

TENANT = "bench"
SMALL = {"memory_mb": 64, "cpu_millis": 50}
BYSTANDERS = 8


def _pushed(member: Member, slug: str) -> None:
    member.app_create(TENANT, slug)
    member.push_sample(slug, "1.0")
    member.version_wait(slug, "1.0")


def _deploys(member: Member, count: int) -> list[float]:
    """Seconds from the request to the rollout's success, for each of ``count`` new releases."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        rollout = member.deploy(
            "pinned",
            "1.0",
            instances=1,
            env={"AT": str(time.time_ns())},
            placement={"constraints": ["number == 3"]},
            **SMALL,
        )
        if rollout["status"] != "succeeded":
            raise SystemExit(f"a deploy {rollout['status']}: {rollout['reason']}")
        took.append(round(time.perf_counter() - began, 3))
    return took


def _p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def run(platform: Platform, rounds: int, count: int) -> dict[str, list[list[float]]]:
    member = platform.member(TENANT, "owner")
    member.login()
    _pushed(member, "bystander")
    _pushed(member, "pinned")
    member.deploy("bystander", "1.0", instances=BYSTANDERS, placement={"constraints": ["number != 3"]}, **SMALL)
    _deploys(member, 3)
    found: dict[str, list[list[float]]] = {"answering": [], "hung": []}

    def again() -> bool:
        return {platform.host_status(0), platform.host_status(1)} == {"ready"}

    for turn in range(rounds):
        found["answering"].append(_deploys(member, count))
        with hung(platform.hosts[:2]):
            found["hung"].append(_deploys(member, count))
        wait_for("the two hosts to be ready again", again)
        for case, times in found.items():
            tell(
                f"{turn + 1}/{rounds}  {case}: median {statistics.median(times[-1]):.2f} s, p95 {_p95(times[-1]):.2f} s"
            )
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--count", type=int, default=10, help="deploys of each kind in a round")
    arguments.add_argument("--quick", action="store_true")
    given = arguments.parse_args()
    rounds, count = (1, 4) if given.quick else (given.rounds, given.count)
    with whole_platform(root_directory() / "bench-hung", [TENANT], hosts=3, say=tell) as platform:
        found = run(platform, rounds, count)
    every: dict[str, list[float]] = {case: [one for times in some for one in times] for case, some in found.items()}
    figures: dict[str, Any] = {f"{case}_p50_s": round(statistics.median(times), 3) for case, times in every.items()}
    figures |= {f"{case}_p95_s": round(_p95(times), 3) for case, times in every.items()}
    # Of all deploys together: a round's p95 is the slowest but half of one.
    figures["p95_ratio"] = round(_p95(every["hung"]) / _p95(every["answering"]), 3)
    figures["p50_ratio"] = round(statistics.median(every["hung"]) / statistics.median(every["answering"]), 3)
    report("hung_engines", figures, {"rounds": found})


if __name__ == "__main__":
    main()
