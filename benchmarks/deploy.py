"""Deploys against ``docker run``, rollouts under load, crashes, and the platform away: on two real Docker hosts.

    python -m benchmarks.deploy             (make bench-deploy; root, about fifteen minutes)
    python -m benchmarks.deploy --quick     a few of each, to see that it runs

Deploy: from the API's acceptance until the first answer through the gateway, the image on the host already; in turns
with ``docker run`` of the same image with the same limits until its first answer. The figures are the deploys' p50 and
p95 less the median of ``docker run``.
Acceptance to engine: from the rollout's creation (before its transaction ends) to the first line ``engine_call`` that a
worker logs for its release, right before it calls the engine.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.deploy_cases import TENANT, Bench, p95
from benchmarks.report import report, tell
from stack.environment import root_directory
from stack.platform import whole_platform

ROLLING: dict[str, Any] = {"strategy": "rolling", "judge_s": 2}
KINDS: dict[str, dict[str, Any]] = {
    "rolling": ROLLING,
    "blue-green": {"strategy": "blue_green", "judge_s": 2, "keep_s": 2},
    "canary": {
        "strategy": "canary",
        "judge_s": 1,
        "steps": [{"weight": 34, "pause_s": 1}, {"weight": 67, "pause_s": 1}],
    },
    "rollback": ROLLING,
}


def kinds(rolling: int, others: int) -> list[tuple[str, dict[str, Any]]]:
    counts = {"rolling": rolling, "blue-green": others, "canary": others, "rollback": others}
    return [(kind, KINDS[kind]) for kind, count in counts.items() for _ in range(count)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=25)
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--rate", type=float, default=400, help="requests a second")
    arguments.add_argument("--crashes", type=int, default=7)
    arguments.add_argument("--away", type=float, default=60, help="seconds")
    arguments.add_argument("--quick", action="store_true")
    given = arguments.parse_args()
    samples, rollouts = 120, kinds(20, 5)
    if given.quick:
        given.pairs, given.requests, given.crashes, given.away, samples, rollouts = 4, 2000, 2, 15, 10, kinds(2, 1)
    directory = root_directory() / "bench-deploy"
    with whole_platform(directory, [TENANT], hosts=2, say=tell) as platform:
        bench = Bench(platform)
        pairs = bench.pairs(given.pairs)
        loaded = bench.under_load(rollouts, rate=given.rate, least=given.requests)
        crashes = bench.crashes(given.crashes)
        hang = bench.hang()
        away = bench.away(given.away)
        calls = sorted(bench.engine_calls(samples))
    run = statistics.median(pairs["docker_run"])
    figures = {
        "deploy_p50_over_docker_run_s": round(statistics.median(pairs["deploy"]) - run, 3),
        "deploy_p95_over_docker_run_s": round(p95(pairs["deploy"]) - run, 3),
        "accept_to_engine_p50_ms": round(statistics.median(calls), 1),
        "accept_to_engine_p99_ms": statistics.quantiles(calls, n=100, method="inclusive")[-1],
        "rollout_requests": loaded["outcome"]["requests"],
        "rollout_failed_requests": loaded["outcome"]["failed"],
        "crash_unrouted_s": round(statistics.median(crashes["unrouted_s"]), 3),
        "crash_replaced_s": round(statistics.median(crashes["replaced_s"]), 3),
    }
    detail = {"pairs": pairs, "under_load": loaded, "crashes": crashes, "hang": hang, "away": away, "engine_ms": calls}
    report("deploy", figures, detail)


if __name__ == "__main__":
    main()
