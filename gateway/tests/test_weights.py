"""Shares become HAProxy weights."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Group
from gateway.weights import MOST, group_weights, server_weights

_shares = st.integers(0, 100)
_counts = st.integers(0, 60)
_apps = st.dictionaries(st.sampled_from(["1", "2", "3", "4", "5"]), st.tuples(_shares, _counts), min_size=1)


def _weights(app: dict[str, tuple[int, int]]) -> tuple[dict[str, int], dict[str, list[str]]]:
    instances = {tag: [f"{tag}-{number:02d}" for number in range(count)] for tag, (_, count) in app.items()}
    return server_weights({tag: share for tag, (share, _) in app.items()}, instances), instances


def test_equal_instances_weigh_100_each() -> None:
    assert server_weights({"1.0": 100}, {"1.0": ["a", "b"]}) == {"a": 100, "b": 100}
    assert server_weights({"1": 50, "2": 50}, {"1": ["a"], "2": ["b"]}) == {"a": 100, "b": 100}


def test_shares_hold_whatever_the_number_of_instances() -> None:
    assert server_weights({"1": 50, "2": 50}, {"1": ["a", "b"], "2": ["c"]}) == {"a": 50, "b": 50, "c": 100}
    assert server_weights({"1": 95, "2": 5}, {"1": ["a"], "2": ["b"]}) == {"a": 95, "b": 5}


def test_a_version_without_a_share_or_without_a_name_in_the_route_gets_nothing() -> None:
    instances = {"1": ["a"], "2": ["b"], "3": ["c"]}
    assert server_weights({"1": 100, "2": 0}, instances) == {"a": 100, "b": 0, "c": 0}


def test_a_tiny_share_over_many_instances_is_kept_by_using_few_of_them() -> None:
    many = [f"b{number:02d}" for number in range(50)]
    weights = server_weights({"1": 100, "2": 1}, {"1": ["a"], "2": many})
    assert weights["a"] == 256
    assert sum(weights[name] for name in many) == 3


@given(_apps)
def test_every_instance_has_a_weight_that_haproxy_takes(app: dict[str, tuple[int, int]]) -> None:
    weights, instances = _weights(app)
    assert weights.keys() == {name for names in instances.values() for name in names}
    assert all(0 <= weight <= MOST for weight in weights.values())


@given(_apps)
def test_versions_get_their_shares(app: dict[str, tuple[int, int]]) -> None:
    weights, instances = _weights(app)
    present = {tag: share for tag, (share, count) in app.items() if share and count}
    total = sum(weights.values())
    assert (total > 0) == bool(present)
    for tag, (share, _) in app.items():
        got = sum(weights[name] for name in instances[tag])
        if tag not in present:
            assert got == 0
        else:
            assert got > 0
            assert abs(got / total - share / sum(present.values())) < 0.02


@given(_apps)
def test_instances_of_a_version_weigh_the_same_but_for_one(app: dict[str, tuple[int, int]]) -> None:
    weights, instances = _weights(app)
    for names in instances.values():
        values = [weights[name] for name in names]
        assert not values or max(values) - min(values) <= 1


def test_groups_get_their_shares_and_what_no_group_names_gets_nothing() -> None:
    groups = (Group(95, ("a", "b")), Group(5, ("c", "gone")), Group(0, ("d",)))
    weights = group_weights(groups, ["a", "b", "c", "d", "e"])
    assert weights == {"a": 95, "b": 95, "c": 10, "d": 0, "e": 0}
    assert weights["c"] / sum(weights.values()) == 0.05


def test_a_group_without_instances_gives_its_share_to_the_others() -> None:
    assert group_weights((Group(50, ("a",)), Group(50, ("gone",))), ["a"]) == {"a": 100}


@given(_apps)
def test_groups_weigh_what_versions_would(app: dict[str, tuple[int, int]]) -> None:
    weights, instances = _weights(app)
    groups = [Group(share, tuple(instances[tag])) for tag, (share, _) in app.items()]
    assert group_weights(groups, weights.keys()) == weights
