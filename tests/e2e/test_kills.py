"""A worker killed at each step of a rollout, under load: it converges, nothing is left behind, and nobody notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from apps.core.failpoints import FAILPOINTS
from stack.journey import OPEN, wait_for
from stack.load import load
from tests.e2e.kills import amiss, arm, audited, died, forget_hits

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
SMALL = {"memory_mb": 64, "cpu_millis": 50}
INSTANCES = 2
#: Within so long of the restart all is as it should be. Seconds.
CONVERGES_S = 30
BROKEN = 'FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT ["/no/such/program"]\n'


@dataclass(frozen=True)
class Case:
    """A rollout in which a worker dies at each of these points; ``serves``: whether the new version does afterwards."""

    points: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    serves: bool = True
    act: str = "deploy"


ROLLING: dict[str, Any] = {"strategy": "rolling", "judge_s": 0}
#: Where a worker for engines dies. Its threads are everybody's, so these are tried one after the other.
ENGINES = (
    Case(("instance.starting", "instance.answered", "instance.unpublished", "container.removed"), ROLLING),
    Case(("container.made", "instance.ready", "instance.unrouted", "instance.released"), ROLLING),
    Case(("instance.running", "gateways.let_go"), ROLLING),
    Case(("place.handed_over",), {"strategy": "in_place", "judge_s": 0}),
)
#: Where one dies that has the app alone: what the lanes do side by side.
LANES: tuple[tuple[Case, ...], ...] = (
    (
        Case(("app.seen", "traffic.shifted", "rollout.ended"), ROLLING),
        Case(("rollout.moving", "source.shrunk", "phase.ending"), ROLLING),
        Case(("target.grown", "instances.drained", "rollout.ending"), ROLLING),
    ),
    (
        Case(("route.publishing", "phase.judging", "phase.moving"), {"strategy": "rolling", "judge_s": 1}),
        Case(("instances.placed", "gateways.acknowledged"), ROLLING),
        Case(("places.given",), {"strategy": "in_place", "judge_s": 0}),
        Case(("set.retired",), {**ROLLING, "instances": 4}, act="cancel", serves=False),
    ),
    (
        Case(
            ("route.unnoted", "canary.stepped"),
            {"strategy": "canary", "judge_s": 0, "steps": [{"weight": 50, "pause_s": 0}]},
        ),
        Case(("route.noted", "phase.keeping"), {"strategy": "blue_green", "judge_s": 0, "keep_s": 1}),
        Case(("rollout.beginning", "rollout.begun"), ROLLING, act="queue"),
        Case(("rollout.giving_up", "rollout.given_up"), ROLLING, version="broken", serves=False),
    ),
)


def test_each_failpoint_has_its_case():
    tried = [point for lane in (ENGINES, *LANES) for case in lane for point in case.points]
    assert sorted(tried) == sorted(FAILPOINTS)


@pytest.fixture(scope="module")
def owner(platform):
    member = platform.member("kills", "owner")
    member.login()
    return member


@pytest.fixture(scope="module")
def apps(platform, owner):
    """Three apps that serve version 1.0, with a second version and one that can't be started."""
    forget_hits(platform)
    slugs = [f"kills-{number}" for number in range(len(LANES))]
    for slug in slugs:
        owner.app_create("kills", slug)
        for tag in ("1.0", "2.0"):
            owner.push_sample(slug, tag)
        owner.push_sample(slug, "broken", dockerfile=BROKEN)
    for slug in slugs:
        for tag in ("1.0", "2.0", "broken"):
            owner.version_wait(slug, tag)
    for slug in slugs:
        rollout = owner.deploy(slug, "1.0", instances=INSTANCES, env={"GREETING": "first"}, **SMALL)
        assert rollout["status"] == "succeeded", rollout
    yield slugs
    for slug in slugs:
        owner.undeploy(slug)


class Lane:
    """One app that goes through its cases; ``problems`` says what was not as it should be."""

    def __init__(self, platform, owner, app: str) -> None:
        self._platform, self._owner, self._app = platform, owner, app
        self.serving, self.instances = "first", INSTANCES
        self.problems: list[str] = []
        self.told: list[str] = []

    def run(self, cases: tuple[Case, ...]) -> None:
        for number, case in enumerate(cases):
            try:
                self._case(case, greeting=f"case-{len(self.told)}-{number}")
            except Exception as error:  # the other lanes go on, and all problems are told
                self.problems.append(f"{self._app} {case.points}: {error!r}")
                return

    def _post(self, case: Case, greeting: str) -> int:
        body = {"version": case.version or "2.0", "env": {"GREETING": greeting}, **case.options}
        return int(self._owner.request("POST", f"apps/{self._app}/rollouts/", body)["number"])

    def _case(self, case: Case, greeting: str) -> None:
        lines = [f"{point}:{self._app}" for point in case.points]
        if case.act == "cancel":
            number = self._cancelled(case, greeting, lines)
        else:
            arm(self._platform, lines)
            number = self._post(case, greeting)
            if case.act == "queue":
                number = self._post(case, greeting)
        began = time.monotonic()
        wait_for(f"the kills at {lines}", lambda: died(self._platform, lines), 90)
        restarted = time.monotonic()
        rollout = self._owner.rollout_wait(self._app, number, CONVERGES_S)
        expected = ("succeeded",) if case.serves else ("failed", "rolled_back", "cancelled")
        if rollout["status"] not in expected:
            raise AssertionError(f"ended {rollout['status']}: {rollout['code']} {rollout['reason']}")
        if case.serves:
            self.serving = greeting
        wait_for(f"{self._app} to settle: {self._amiss()}", lambda: not self._amiss(), CONVERGES_S, 0.5)
        took = time.monotonic() - restarted
        if took > CONVERGES_S:
            self.problems.append(f"{self._app} {case.points}: settled after {took:.1f} s")
        self.told.append(f"{self._app} {case.points}: kills {restarted - began:.1f} s, settled {took:.1f} s")

    def _amiss(self) -> list[str]:
        wanted, greeting = self.instances, self.serving
        return amiss(self._platform, self._owner, self._app, wanted=wanted, greeting=greeting)

    def _cancelled(self, case: Case, greeting: str, lines: list[str]) -> int:
        """Given up when some of the old ones are gone already: what has come serves until they are back."""
        self._owner.request("POST", f"apps/{self._app}/scale/", {"instances": case.options["instances"]})
        self.instances = case.options["instances"]
        wait_for(f"{self._app} to be scaled", lambda: not self._amiss(), CONVERGES_S)
        number = self._post(case, greeting)

        def half_way() -> bool:
            rows = self._owner.instances(self._app)
            return len({one["release"] for one in rows}) == 2 and self._steps(number, "old left") >= 2

        wait_for("some to be replaced", half_way, 30, 0.02)
        arm(self._platform, lines)
        self._owner.request("POST", f"apps/{self._app}/rollouts/{number}/cancel/")
        return number

    def _steps(self, number: int, word: str) -> int:
        rollout = self._owner.request("GET", f"apps/{self._app}/rollouts/{number}/")
        return sum(word in one["step"] for one in rollout["report"]["steps"])


def _in_lanes(lanes: list[Lane], work: Callable[[Lane, int], None]) -> None:
    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(work, lanes, range(len(lanes))))


def test_a_worker_killed_at_any_step_of_a_rollout_is_made_up_for_and_nobody_notices(platform, owner, apps):
    lanes = [Lane(platform, owner, slug) for slug in apps]
    with ExitStack() as stack:
        outcomes = [stack.enter_context(load(platform.env, app, rate=20)) for app in apps]
        lanes[0].run(ENGINES)
        _in_lanes(lanes, lambda lane, number: lane.run(LANES[number]))
    told = "\n".join(line for lane in lanes for line in lane.told)
    (platform.env.directory / "log" / "kills.txt").write_text(told)
    assert [problem for lane in lanes for problem in lane.problems] == []
    assert [outcome.failures for outcome in outcomes] == [[], [], []]
    assert min(outcome.requests for outcome in outcomes) > 100
    assert audited(platform) == []


def _containers(platform, app):
    return {*platform.labelled(0, app), *platform.labelled(1, app)}


def _moved(platform, owner, app, began, there):
    rollout = owner.request("GET", f"apps/{app}/rollouts/{began['number']}/")
    return rollout["status"] not in OPEN or _containers(platform, app) != there


def test_a_flushed_broker_in_the_middle_of_a_rollout_costs_time_and_nothing_else(platform, owner, apps):
    app = apps[0]
    broker = redis.Redis.from_url(platform.env.variables()["BERTH_REDIS_URL"])
    with load(platform.env, app, rate=20) as outcome:
        began = owner.request(
            "POST", f"apps/{app}/rollouts/", {"version": "1.0", "env": {"GREETING": "flushed"}, **ROLLING}
        )
        for _ in range(4):
            there = _containers(platform, app)
            broker.flushall()
            wait_for("something to happen", lambda there=there: _moved(platform, owner, app, began, there), CONVERGES_S)
        broker.flushall()
        flushed = time.monotonic()
        rollout = owner.rollout_wait(app, began["number"], CONVERGES_S)
        assert rollout["status"] == "succeeded", rollout
        wait_for(
            "the app to settle",
            lambda: not amiss(platform, owner, app, wanted=INSTANCES, greeting="flushed"),
            CONVERGES_S,
        )
        assert time.monotonic() - flushed < CONVERGES_S
    broker.close()
    assert outcome.failures == []
    assert audited(platform) == []
