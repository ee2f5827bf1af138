"""Whether a new version answers worse through the gateways than the old one, by what gateways counted of each.

Both are looked at over the same time where both have traffic; where all of it has moved, the old one is known by what
it answered before. Few answers prove nothing: with fewer than the numbers below there is no verdict.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

from apps.core.clock import now
from apps.deployments.discovery import DiscoveryUnavailable
from apps.deployments.models import App, Instance, Rollout
from apps.deployments.reconcile.clients import Clients
from apps.deployments.verdict_data import Counters, Seen, app_window, percentile, window
from gateway.contract import AppTraffic, ContractError

#: From so many answers of the new version on its share of errors is compared.
MIN_REQUESTS = 50
MIN_ERRORS = 5
#: So much more of its answers are errors (0.05: five of a hundred), and they come twice as often as the old one's.
MORE_ERRORS = 0.05
#: Where the old one's answers are not known: so much is bad by itself.
BAD_ERRORS = 0.25
#: Standard deviations: less may be chance.
SIGNIFICANT = 3.0
#: From so many answers of both on the times of their slowest twentieths are compared.
MIN_TIMED = 200
SLOWER_TIMES = 2.0
SLOWER_MS = 100.0
#: With so many answers of the new version nothing more is waited for, after a moment in any case. Seconds.
ENOUGH = 200
LEAST_S = 2.0
#: Nobody asks either of them: there will be nothing to compare. Seconds.
QUIET_S = 3.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """``worse`` is the code of why it is to be rolled back, empty while there is nothing to say against it."""

    done: bool
    worse: str = ""
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


def counters(app: App, clients: Clients) -> Counters:
    """What gateways have counted until now, of those that answer."""
    try:
        states = clients.discovery.gateways()
    except DiscoveryUnavailable:
        return {}
    return clients.traffic.of(app.slug, states)


def snapshot(app: App, clients: Clients, *, containers: bool = True) -> dict[str, Any]:
    """The same as it is kept with the rollout; without containers it is enough for a report."""
    found = counters(app, clients)
    if not containers:
        found = {name: replace(one, containers={}) for name, one in found.items()}
    return {name: json.loads(one.to_json()) for name, one in found.items()}


def _kept(rollout: Rollout, key: str) -> Counters:
    """A snapshot read again. One of another format than today's counts as none."""
    found: dict[str, AppTraffic] = {}
    for name, body in rollout.evidence.get(key, {}).items():
        try:
            found[name] = AppTraffic.from_json(json.dumps(body).encode())
        except ContractError:
            continue
    return found


def judged(rollout: Rollout, app: App, clients: Clients) -> Judgement:
    """Compare what target and source have answered since the phase began."""
    waited = 0.0 if rollout.phase_since is None else (now() - rollout.phase_since).total_seconds()
    before, after = _kept(rollout, "before"), counters(app, clients)
    new = window(before, after, _containers(rollout.target_id))
    old = window(before, after, _containers(rollout.source_id))
    asked = bool(new.requests or old.requests)
    if old.requests < MIN_REQUESTS:
        old = window(_from_nothing(after), after, _containers(rollout.source_id))
    judgement = verdict(new, old)
    evidence = {**judgement.evidence, "waited_s": round(waited, 1)}
    if not (before and after):
        evidence["unknown"] = "No gateway could tell."
    enough = new.requests >= ENOUGH and waited >= LEAST_S
    quiet = not asked and waited >= QUIET_S
    done = bool(judgement.worse) or enough or quiet or waited >= rollout.judge_s
    return replace(judgement, done=done, evidence=evidence)


def verdict(new: Seen, old: Seen) -> Judgement:
    """Pure. ``done`` says no more than that there were enough answers to compare errors."""
    done = new.requests >= MIN_REQUESTS
    evidence = {"new": _told(new), "old": _told(old), "enough": done}
    if _unhealthier(new, old):
        reason = (
            f"The new version answered {new.errors_5xx} of {new.requests} requests with an error, "
            f"the old one {old.errors_5xx} of {old.requests}."
        )
        return Judgement(done, "rollout.unhealthier", reason, evidence)
    if new.requests >= MIN_TIMED and old.requests >= MIN_TIMED:
        ours, theirs = percentile(new.histogram, 0.95), percentile(old.histogram, 0.95)
        if ours > SLOWER_TIMES * theirs and ours - theirs > SLOWER_MS:
            reason = (
                f"Of the new version's answers 95 % took up to {ours:.0f} ms, of the old one's {theirs:.0f} ms "
                f"({new.requests} and {old.requests} requests)."
            )
            return Judgement(done, "rollout.slower", reason, evidence)
    return Judgement(done, evidence=evidence)


def _unhealthier(new: Seen, old: Seen) -> bool:
    if new.requests < MIN_REQUESTS or new.errors_5xx < MIN_ERRORS:
        return False
    ours = new.errors_5xx / new.requests
    if old.requests < MIN_REQUESTS:
        return ours > BAD_ERRORS
    theirs = old.errors_5xx / old.requests
    pooled = (new.errors_5xx + old.errors_5xx) / (new.requests + old.requests)
    deviation = sqrt(pooled * (1 - pooled) * (1 / new.requests + 1 / old.requests))
    return ours > theirs + MORE_ERRORS and ours > 2 * theirs and ours - theirs > SIGNIFICANT * deviation


def _told(seen: Seen) -> dict[str, Any]:
    return {
        "requests": seen.requests,
        "errors_5xx": seen.errors_5xx,
        "p95_ms": round(percentile(seen.histogram, 0.95), 1),
    }


def _containers(replica_set_id: int | None) -> Collection[str]:
    rows = Instance.objects.filter(replica_set_id=replica_set_id or 0).exclude(container_id="")
    return set(rows.order_by("-pk").values_list("container_id", flat=True)[:1000])


def _from_nothing(after: Mapping[str, AppTraffic]) -> Counters:
    """As if the counters had begun with this look."""
    return {name: replace(one, since="") for name, one in after.items()}


def traffic_report(rollout: Rollout, app: App, clients: Clients) -> dict[str, Any]:
    """What the app's users got since the rollout began; empty where no gateway can tell."""
    before = _kept(rollout, "traffic")
    after = counters(app, clients) if before else {}
    if not before.keys() & after.keys():
        return {}
    seen = app_window(before, after)
    return {
        "requests": seen.requests,
        "errors_5xx": seen.errors_5xx,
        "unserved": seen.unserved,
        "broken": seen.broken,
        "complete": all(
            one.listening and one.dropped == before[name].dropped for name, one in after.items() if name in before
        ),
    }
