"""What benchmarks/deploy.py measures, case by case, on a whole platform with two real Docker hosts."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from benchmarks.report import tell
from gateway import contract
from stack.journey import Member, wait_for
from stack.load import Outcome, load
from stack.outage import outage
from stack.platform import Platform

TENANT = "bench"
SMALL = {"memory_mb": 64, "cpu_millis": 200}
#: Nobody but the benchmark uses it; outside of the ports that the platform gives out.
DOCKER_PORT = 19999


def p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def answers(host: str, port: int, name: str = "", path: str = "/_ping") -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path, headers={"Host": name or host})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Bench:
    """One tenant on a running platform; ``posted`` collects when each rollout was accepted."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.began = datetime.now(UTC)
        self.member: Member = platform.member(TENANT, "owner")
        self.member.login()
        self.posted: dict[tuple[str, int], datetime] = {}

    def app(self, slug: str) -> str:
        self.member.app_create(TENANT, slug)
        for tag in ("1.0", "2.0"):
            self.member.push_sample(slug, tag)
        for tag in ("1.0", "2.0"):
            self.member.version_wait(slug, tag)
        return slug

    def post(self, app: str, path: str = "rollouts", **body: Any) -> int:
        rollout = self.member.request("POST", f"apps/{app}/{path}/", body)
        self.posted[app, rollout["number"]] = datetime.fromisoformat(rollout["created_at"])
        return int(rollout["number"])

    def done(self, app: str, number: int) -> Any:
        rollout = self.member.rollout_wait(app, number)
        if rollout["status"] != "succeeded":
            raise SystemExit(f"rollout {number} of {app} {rollout['status']}: {rollout['code']} {rollout['reason']}")
        return rollout

    # Deploys against docker run ---------------------------------------------------------------------------------

    def pairs(self, count: int) -> dict[str, list[float]]:
        """Seconds of ``docker run`` to the first answer, and of a deploy, in turns."""
        app = self.app("deployed")
        # The image is on both hosts from then on.
        self.done(app, self.post(app, version="1.0", instances=2, judge_s=0, **SMALL))
        self.member.undeploy(app)
        image = f"{self.platform.env.registry_public}/{app}:1.0"
        self.member.docker("pull", image)
        found: dict[str, list[float]] = {"docker_run": [], "deploy": [], "deploy_from_request": []}
        for _ in range(count):
            found["docker_run"].append(self._docker_run(image))
            accepted, asked = self._deploy(app)
            found["deploy"].append(accepted)
            found["deploy_from_request"].append(asked)
        tell(f"docker run: median {statistics.median(found['docker_run']):.2f} s")
        tell(f"deploy: median {statistics.median(found['deploy']):.2f} s, p95 {p95(found['deploy']):.2f} s")
        return found

    def _docker_run(self, image: str) -> float:
        address = self.platform.hosts[0].address
        limits = [
            *("--memory", f"{SMALL['memory_mb']}m", "--memory-swap", f"{SMALL['memory_mb']}m", "--cpus", "0.2"),
            *("--pids-limit", "512", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--log-opt", "max-size=10m", "--log-opt", "max-file=3"),
        ]
        began = time.perf_counter()
        container = self.member.docker(
            "run", "--detach", *limits, "--publish", f"{address}:{DOCKER_PORT}:8080", image
        ).strip()
        wait_for("the container's first answer", lambda: answers(address, DOCKER_PORT), 30, 0.005)
        took = time.perf_counter() - began
        self.member.docker("rm", "--force", container)
        return round(took, 3)

    def _deploy(self, app: str) -> tuple[float, float]:
        """Seconds to the first answer through the gateway: since it was accepted, and since it was asked for."""
        port = self.platform.env.ports["gateway"]
        began = time.perf_counter()
        number = self.post(app, version="1.0", instances=1, judge_s=0, **SMALL)
        accepted = time.perf_counter()
        wait_for("the first answer", lambda: answers("127.0.0.1", port, f"{app}.localhost"), 60, 0.005)
        served = time.perf_counter()
        self.done(app, number)
        self.member.undeploy(app)
        return round(served - accepted, 3), round(served - began, 3)

    # From accepted to the first call of an engine -----------------------------------------------------------------

    def engine_calls(self, at_least: int) -> list[float]:
        """Milliseconds from each rollout's acceptance to the first engine call for it; more rollouts until enough."""
        app = self.app("called")
        self.done(app, self.post(app, version="1.0", instances=1, judge_s=0, **SMALL))
        while len(self.posted) < at_least:
            env = {"AT": str(time.time_ns())}
            self.done(app, self.post(app, version="1.0", env=env, judge_s=0))
        calls = self._first_calls()
        return [
            round(max(0.0, (calls[key] - at).total_seconds() * 1000), 1)
            for key, at in self.posted.items()
            if key in calls
        ]

    def _first_calls(self) -> dict[tuple[str, int], datetime]:
        """By app and rollout: the lines ``engine_call`` of the workers' log name the release, whose number is its own
        rollout's here, since each of this tenant's rollouts makes one.
        """
        found: dict[tuple[str, int], datetime] = {}
        for line in self.platform.stack.log_path("engines").read_text(errors="replace").splitlines():
            if '"engine_call"' not in line:
                continue
            told = json.loads(line[line.index("{") :])
            key = told["app"], int(told["release"])
            at = datetime.fromisoformat(told["timestamp"])
            if at < self.began:
                continue  # of an earlier run in the same directory
            found[key] = min(at, found.get(key, at))
        by_rollout = {}
        for app in {app for app, _ in self.posted}:
            for rollout in self._all(f"apps/{app}/rollouts/"):
                call = found.get((app, rollout["release"] or 0))
                if call is not None:
                    by_rollout[app, int(rollout["number"])] = call
        return by_rollout

    def _all(self, path: str) -> Iterator[Any]:
        page = self.member.request("GET", path)
        yield from page["results"]
        while page.get("next"):
            page = self.member.api.get(page["next"]).json()
            yield from page["results"]

    # Rollouts under load ------------------------------------------------------------------------------------------

    def under_load(self, kinds: Sequence[tuple[str, dict[str, Any]]], *, rate: float, least: int) -> dict[str, Any]:
        """Rollouts one after the other under constant requests; goes on asking until there were at least so many."""
        app = self.app("loaded")
        self.done(app, self.post(app, version="1.0", instances=3, judge_s=0, **SMALL))
        spans = []
        with load(self.platform.env, app, rate=rate, connections=16) as outcome:
            for turn, (kind, options) in enumerate(kinds):
                began = time.time()
                if kind == "rollback":
                    number = self.post(app, "rollback", **options)
                else:
                    env = {"GREETING": f"turn {turn}"}
                    number = self.post(app, version=("2.0", "1.0")[turn % 2], env=env, **options)
                self.done(app, number)
                spans.append({"kind": kind, "began": began, "took_s": round(time.time() - began, 2)})
                if not turn % 5:
                    tell(f"{turn + 1}/{len(kinds)} rollouts: {outcome.requests} requests, {outcome.failed} failed")
            wait_for("enough requests", lambda: outcome.requests >= least, least / rate + 30, 0.5)
        return {
            "outcome": vars(outcome),
            "rollouts": spans,
            "failures": [_placed(one, spans) for one in outcome.failures],
        }

    # Crashes ------------------------------------------------------------------------------------------------------

    def crashes(self, count: int) -> dict[str, Any]:
        """Seconds from the end of a container until gateways route to it no more, and until another serves."""
        app = "loaded"
        found: dict[str, Any] = {"unrouted_s": [], "replaced_s": []}
        with self._routes(app) as routed, load(self.platform.env, app, rate=100) as outcome:
            for _ in range(count):
                unrouted, replaced = self._broken(app, routed, lambda victim: ("kill", victim))
                found["unrouted_s"].append(unrouted)
                found["replaced_s"].append(replaced)
        found["load"] = vars(outcome)
        return found

    def hang(self) -> dict[str, Any]:
        """The app's processes are stopped: it takes connections and answers nothing."""
        app = "loaded"
        stop = ("/bin/busybox", "kill", "-STOP", "-1")
        with self._routes(app) as routed, load(self.platform.env, app, rate=50) as outcome:
            unrouted, replaced = self._broken(app, routed, lambda victim: ("exec", victim, *stop), wait_s=90)
        return {"unrouted_s": unrouted, "replaced_s": replaced, "load": vars(outcome)}

    def _broken(
        self, app: str, routed: Callable[[], set[str]], how: Callable[[str], Sequence[str]], wait_s: float = 30
    ) -> tuple[float, float]:
        wait_for("all to be routed", lambda: len(routed()) == len(self.member.instances(app)), 30)
        before = routed()
        here = [(host, one) for host in range(2) for one in self.platform.labelled(host, app) if one in before]
        host, victim = here[0]
        began = time.perf_counter()
        self.platform.member(TENANT, "owner", host).docker(*how(victim))
        wait_for("the victim to be routed no more", lambda: victim not in routed(), wait_s, 0.01)
        unrouted = time.perf_counter() - began
        wait_for("another in its place", lambda: len(routed() - {victim}) == len(before), wait_s, 0.01)
        replaced = time.perf_counter() - began
        wait_for("it to settle", lambda: len(self.member.instances(app)) == len(before), 30)
        tell(f"unrouted after {unrouted:.2f} s, replaced after {replaced:.2f} s")
        return round(unrouted, 3), round(replaced, 3)

    @contextmanager
    def _routes(self, app: str) -> Iterator[Callable[[], set[str]]]:
        """What gateways route to: the containers that are published, once the gateway has that in force."""
        variables = self.platform.env.variables()
        client = KazooClient(variables["BERTH_ZOOKEEPER"], auth_data=[("digest", variables["BERTH_ZOOKEEPER_GATEWAY"])])
        client.start(timeout=10)
        last: set[str] = set()

        def routed() -> set[str]:
            nonlocal last
            base = f"{contract.ADDRESS_PATH}/{app}"
            try:
                zxid = client.exists(contract.route_path(app)).mzxid
                now = {one for tag in client.get_children(base) for one in client.get_children(f"{base}/{tag}")}
                states = [
                    contract.GatewayState.from_json(client.get(f"{contract.GATEWAY_PATH}/{name}")[0])
                    for name in client.get_children(contract.GATEWAY_PATH)
                ]
            except NoNodeError:
                return last
            if all(state.served >= zxid for state in states):
                last = now
            return last

        try:
            yield routed
        finally:
            client.stop()
            client.close()

    # The platform away --------------------------------------------------------------------------------------------

    def away(self, seconds: float) -> dict[str, Any]:
        """PostgreSQL, Redis, ZooKeeper and all workers away for so long in the middle of a rollout, under load."""
        app = "loaded"
        with load(self.platform.env, app, rate=100) as outcome:
            number = self.post(app, version="2.0", env={"GREETING": "away"}, judge_s=0)
            wait_for("the rollout's first instance", lambda: self._releases(app) == 2, 60, 0.05)
            with outage(self.platform):
                until = time.monotonic() + seconds
                wait_for("the end of the outage", lambda: time.monotonic() > until, seconds + 5)
            back = time.perf_counter()
            self.done(app, number)
            wait_for("it to settle", lambda: self._releases(app) == 1, 60)
            took = time.perf_counter() - back
        tell(f"away for {seconds:g} s: {outcome.requests} requests, {outcome.failed} failed; converged in {took:.1f} s")
        return {"away_s": seconds, "converged_s": round(took, 1), "load": vars(outcome)}

    def _releases(self, app: str) -> int:
        return len({one["release"] for one in self.member.instances(app)})


def _placed(failure: dict[str, Any], spans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """With what was going on when it failed."""
    of = [one for one in spans if one["began"] <= failure["at"] <= one["began"] + one["took_s"]]
    during = {"kind": of[0]["kind"], "since_s": round(failure["at"] - of[0]["began"], 2)} if of else "between rollouts"
    return {**failure, "during": during}


__all__ = ["TENANT", "Bench", "Outcome", "p95"]
