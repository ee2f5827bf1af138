"""What is kept from one plan to the next saves time, and changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

from gateway import diff, plan, state
from gateway.contract import Address, Policy, Route
from gateway.model import AppState

NAMES = [f"app-{number}" for number in range(8)]


def _state(app: str, dice: random.Random) -> AppState:
    policy = dice.choice([Policy(), Policy(app_rate=5), Policy(deny=("192.0.2.0/24",)), Policy(asleep=True)])
    count = dice.randrange(4)
    containers = {f"{dice.randrange(6):012x}": Address("10.0.0.1", dice.randrange(1, 9)) for _ in range(count)}
    if containers and dice.random() < 0.4:
        policy = Policy(testers=(sorted(containers)[0],))
    weights = {"1.0": dice.choice([50, 100])}
    return AppState(Route(app, 1, (f"{app}.test",), weights, policy), {"1.0": containers} if containers else {})


def test_a_plan_with_a_memory_is_the_plan_without_one(tmp_path: Path) -> None:
    dice = random.Random(7)
    memory, written = diff.Memory(), state.Written()
    apps: dict[str, AppState] = {}
    before = plan.Before({}, {}, set(), 0, 0)
    for _ in range(300):
        app = dice.choice(NAMES)
        if app in apps and dice.random() < 0.3:
            del apps[app]
        else:
            apps[app] = _state(app, dice)
        alone = plan.plan(apps, before, spare=16, expected=0)
        assert plan.plan(apps, before, spare=16, expected=0, memory=memory) == alone
        saved = state.Saved("epoch", 1, dict(apps), alone.slots, alone.owners)
        state.save(tmp_path / "state.json", saved, written)
        assert state.load(tmp_path / "state.json") == saved
        before = plan.Before(alone.slots, alone.owners, set(), alone.plane.slots, 0)
        if dice.random() < 0.1:  # the slots are lost: apps get others
            before = plan.Before({}, {}, set(), 0, 0)
    assert memory.servers.keys() == memory.policies.keys() == written.keys() == apps.keys()


def test_what_did_not_change_is_not_looked_at_again() -> None:
    apps = {app: _state(app, random.Random(1)) for app in NAMES}
    memory = diff.Memory()
    first = plan.plan(apps, plan.Before({}, {}, set(), 0, 0), spare=16, expected=0, memory=memory)
    again = plan.Before(first.slots, first.owners, set(), first.plane.slots, 0)
    second = plan.plan(apps, again, spare=16, expected=0, memory=memory)
    assert all(second.plane.servers[slot] is servers for slot, servers in first.plane.servers.items() if slot < 8)
