"""What is on disk is what was last stored, wherever the process died; and a small change costs a small writing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import diff, journal, plan, state
from gateway.contract import Address, Group, Policy, Route
from gateway.journal import Journal, load
from gateway.model import AppState, Plane
from gateway.state import Saved

APPS = ("alpha", "beta", "gamma")


def _state(app: str, *ports: int, **route: object) -> AppState:
    instances = {"1.0": {f"{port:012x}": Address("10.0.0.1", port) for port in ports}} if ports else {}
    return AppState(Route(app, 1, (f"{app}.test",), {"1.0": 100}, **route), instances)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture
def saved() -> Saved:
    apps = {app: _state(app, 80) for app in APPS}
    return Saved("epoch", 7, apps, {app: at for at, app in enumerate(APPS)}, {f"{app}.test": app for app in APPS})


def test_changes_stand_behind_the_whole(path: Path, saved: Saved) -> None:
    kept = Journal(path)
    assert not kept.room, "before there is a whole"
    kept.begin(saved)
    whole = path.read_bytes()
    kept.add(8, {"alpha": _state("alpha", 81, 82)})
    kept.add(9, {"alpha": _state("alpha", 83), "beta": _state("beta")})
    assert path.read_bytes() == whole
    found = load(path)
    assert (found.epoch, found.seen, found.slots, found.owners) == ("epoch", 9, saved.slots, saved.owners)
    assert found.apps == {"alpha": _state("alpha", 83), "beta": _state("beta"), "gamma": _state("gamma", 80)}
    kept.begin(found)
    assert load(path).apps == found.apps
    assert len(path.with_name("state.json.journal").read_text().splitlines()) == 1


def test_a_journal_of_another_state_is_none_of_this_one_s(path: Path, saved: Saved) -> None:
    """Killed between the two writings: the state is new and the journal is the old one's."""
    kept = Journal(path)
    kept.begin(saved)
    kept.add(8, {"alpha": _state("alpha", 81)})
    state.save(path, saved, mark="another")
    assert load(path).apps == saved.apps
    state.save(path, saved)
    path.with_name("state.json.journal").write_text("\n" + '{"seen":9,"apps":{}}\n')
    assert load(path).seen == 7, "one without a mark has no journal"


@pytest.mark.parametrize(
    "tail",
    [
        '{"seen":9,"apps":{"alpha":',
        '{"seen":9,"apps":{}}',
        '{"seen":"x","apps":{}}\n',
        '{"seen":9,"apps":{"delta":{"route":{},"instances":{}}}}\n',
        "nonsense\n",
    ],
)
def test_a_line_that_was_cut_off_or_is_none_ends_it(path: Path, saved: Saved, tail: str) -> None:
    kept = Journal(path)
    kept.begin(saved)
    kept.add(8, {"alpha": _state("alpha", 81)})
    with path.with_name("state.json.journal").open("a") as file:
        file.write(tail)
    found = load(path)
    assert (found.seen, found.apps["alpha"]) == (8, _state("alpha", 81))


def test_a_disk_that_is_full_leaves_no_room_until_there_is_a_whole_again(
    path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(path)
    kept.begin(saved)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            kept.add(8, {"alpha": _state("alpha", 81)})
        assert not kept.room
        with pytest.raises(OSError, match="No space"):
            kept.begin(saved)
        assert not kept.room
    kept.begin(saved)
    assert kept.room


def test_so_many_changes_and_the_whole_is_written_again(path: Path, saved: Saved) -> None:
    kept = Journal(path)
    kept.begin(saved)
    for _ in range(journal.MOST_APPS // 2):
        assert kept.room
        kept._left -= 2
    assert not kept.room


_states = st.builds(
    lambda ports, shares, grouped: (
        [f"{port:012x}" for port in ports],
        {f"{port:012x}": Address("10.0.0.1", port) for port in ports},
        shares,
        grouped,
    ),
    st.lists(st.integers(1, 6), unique=True, max_size=4),
    st.integers(0, 100),
    st.booleans(),
)


def _built(app: str, drawn: tuple[list[str], dict[str, Address], int, bool]) -> AppState:
    names, addresses, share, grouped = drawn
    groups = (Group(share, tuple(names)),) if grouped and names else ()
    route = Route(app, share + 1, (f"{app}.test",), {"1.0": share}, groups=groups)
    return AppState(route, {"1.0": addresses} if addresses else {})


def _before(planned: plan.Planned) -> plan.Before:
    return plan.Before(planned.slots, planned.owners, planned.plane.servers, planned.plane.slots, 0)


@given(st.tuples(_states, _states, _states), st.dictionaries(st.sampled_from(APPS), _states, min_size=1))
def test_a_patched_plane_is_the_one_that_is_planned_anew(drawn: object, changes: dict[str, object]) -> None:
    first = {app: _built(app, one) for app, one in zip(APPS, drawn, strict=True)}  # type: ignore[call-overload]
    memory = diff.Memory()
    planned = plan.plan(first, plan.Before({}, {}, (), 0, 0), spare=4, expected=3, memory=memory)
    second = first | {app: _built(app, one) for app, one in changes.items()}  # type: ignore[arg-type]
    patched = plan.patch(planned.plane, second, planned.slots, list(changes), memory)
    assert patched is not None
    anew = plan.plan(second, _before(planned), spare=4, expected=3)
    assert patched.plane == anew.plane
    operations = diff.difference(planned.plane, patched.plane)
    assert diff.difference(planned.plane, patched.plane, patched.slots) == operations
    # And what is planned after it, of what it remembers, is the same.
    assert plan.plan(second, _before(planned), spare=4, expected=3, memory=memory).plane == anew.plane


@pytest.mark.parametrize(
    "changed",
    [
        {"domains": ("other.test",)},
        {"policy": Policy(maintenance=True)},
        {"policy": Policy(asleep=True)},
        {"protocol": "h2"},
        {"challenges": {"t": "t.k"}},
    ],
)
def test_what_is_more_than_instances_is_planned_anew(changed: dict[str, object]) -> None:
    apps = {"alpha": _state("alpha", 80)}
    memory = diff.Memory()
    planned = plan.plan(apps, plan.Before({}, {}, (), 0, 0), spare=4, expected=1, memory=memory)
    values = {"app": "alpha", "revision": 2, "domains": ("alpha.test",), "weights": {"1.0": 100}} | changed
    other = {"alpha": AppState(Route(**values), apps["alpha"].instances)}  # type: ignore[arg-type]
    assert plan.patch(planned.plane, other, planned.slots, ["alpha"], memory) is None
    assert plan.patch(planned.plane, {"beta": _state("beta", 80)}, planned.slots, ["beta"], memory) is None
    assert plan.patch(Plane(0), apps, {}, ["alpha"], memory) is None
