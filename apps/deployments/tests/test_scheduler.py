"""The pipeline by itself: pure, without a database."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.deployments.scheduler.constraints import parse
from apps.deployments.scheduler.filters import refusal
from apps.deployments.scheduler.pipeline import place
from apps.deployments.scheduler.ports import next_ports
from apps.deployments.scheduler.types import Candidate, Request, Rules
from apps.deployments.scheduler.weighers import DEFAULTS
from apps.hosts.models.hosts import WEIGHERS


def host(number, **values):
    defaults = {"memory_mb": 1024, "cpu_millis": 1000, "ports_free": 10}
    return Candidate(**{"host_id": number, "name": f"host-{number}", **defaults, **values})


def test_instances_of_one_app_are_spread_and_the_same_input_gives_the_same_answer():
    hosts = [host(2), host(1), host(3)]
    decision = place(Request(64, 10, seed="a"), 3, hosts)
    assert {one.host_id for one in decision.placed} == {1, 2, 3}
    assert place(Request(64, 10, seed="a"), 3, list(reversed(hosts))) == decision


def test_hosts_as_good_as_each_other_are_chosen_by_the_seed():
    hosts = [host(number) for number in range(50)]
    first = {place(Request(64, 10, seed=str(seed)), 1, hosts).placed[0].host_id for seed in range(30)}
    assert len(first) > 15, "placers at the same time would all want the same host"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"status": "suspect"}, "not ready"),
        ({"availability": "cordoned"}, "cordoned"),
        ({"availability": "draining"}, "draining"),
        ({"disk_pressure": True}, "its disk is nearly full"),
        ({"dedicated_to": 8}, "dedicated to another tenant"),
        ({"labels": {"zone": "us"}}, "label: not zone == eu"),
        ({"engine": 19_000_000}, "engine older than 20.10"),
        ({"neighbours": frozenset()}, "does not run redis"),
        ({"own_of_release": 1}, "runs one of this release already"),
        ({"memory_mb_claimed": 1000}, "not enough memory"),
        ({"cpu_millis_claimed": 1000}, "not enough CPU"),
        ({"ports_free": 0}, "no free port"),
    ],
)
def test_each_refusal_has_its_reason(values, reason):
    rules = Rules((parse("zone == eu"),), ("redis",), True, 20_010_000, "20.10")
    good = {"labels": {"zone": "eu"}, "engine": 20_010_005, "neighbours": frozenset({"redis"})}
    request = Request(64, 10, tenant_id=7, rules=rules)
    assert refusal(host(1, **good), request) is None
    decision = place(request, 1, [host(1, **{**good, **values})])
    assert (decision.placed, dict(decision.refused)) == ((), {reason: 1})


def test_a_host_that_failed_is_taken_only_if_there_is_no_other():
    hosts = [host(1), host(2, memory_mb_claimed=900)]
    assert place(Request(64, 10, avoid=frozenset({1})), 1, hosts).placed[0].host_id == 2
    assert place(Request(64, 10, avoid=frozenset({1})), 1, hosts[:1]).placed[0].host_id == 1


def test_a_dedicated_host_is_its_tenants_first_choice():
    hosts = [host(1), host(2, dedicated_to=7, memory_mb_claimed=500)]
    assert place(Request(64, 10, tenant_id=7), 1, hosts).placed[0].host_id == 2


def test_instances_are_spread_over_zones_before_hosts():
    hosts = [host(1, zone="a"), host(2, zone="a"), host(3, zone="a"), host(4, zone="b", memory_mb_claimed=800)]
    placed = [one.host_id for one in place(Request(64, 10), 4, hosts).placed]
    assert placed.count(4) == 2, "two of four in the zone that has one host"
    assert place(Request(64, 10), 1, hosts, zones={"a": 1}).placed[0].host_id == 4


@pytest.mark.parametrize(
    ("weights", "best"),
    [
        ({"idle_cpu": 0}, 1),  # most free memory
        ({"free_memory": 0, "idle_cpu": 5}, 2),
        ({"free_memory": 0, "idle_cpu": 0, "binpack": 5}, 3),
        ({"free_memory": 0, "idle_cpu": 0, "image": 5}, 4),
    ],
)
def test_the_clusters_weights_decide(weights, best):
    hosts = [
        host(1, cpu_idle=0.1),
        host(2, memory_mb_claimed=300, cpu_idle=0.9),
        host(3, memory_mb_claimed=800, cpu_idle=0.1),
        host(4, memory_mb_claimed=500, cpu_idle=0.1, has_image=True),
    ]
    assert place(Request(64, 10), 1, hosts, weights=weights).placed[0].host_id == best


def test_the_weighers_that_admins_may_set_are_those_that_there_are():
    assert set(WEIGHERS) == set(DEFAULTS)


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("zone == eu-1", {"zone": "eu-1"}, True),
        ("zone==eu-1", {"zone": "eu-2"}, False),
        ("zone == eu-1", {}, False),
        ("disk != hdd", {"disk": "ssd"}, True),
        ("disk != hdd", {}, True),
        ("disk != hdd", {"disk": "hdd"}, False),
        ("zone in (a, b)", {"zone": "b"}, True),
        ("zone in (a,b)", {"zone": "c"}, False),
        ("zone not in (a, b)", {"zone": "c"}, True),
        ("zone not in (a, b)", {}, True),
        ("zone  not  in ( a )", {"zone": "a"}, False),
        ("gpu exists", {"gpu": "2"}, True),
        ("gpu exists", {}, False),
        ("gpu not exists", {}, True),
    ],
)
def test_constraints_hold_as_selectors_of_kubernetes_do(text, labels, holds):
    constraint = parse(text)
    assert constraint.holds(labels) is holds
    assert parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zone",
        "zone = a",
        "zone == ",
        "Zone == a",
        "zone == a b",
        "zone in ()",
        "zone in a",
        "zone == a'--",
        "x" * 99,
    ],
)
def test_what_is_no_constraint_is_refused_with_how_to_write_one(text):
    with pytest.raises(ValueError, match="key == value"):
        parse(text)


def test_a_port_goes_round_its_range_before_it_is_used_again():
    assert next_ports(20000, 20009, 20009, {20000}, 2) == [20009, 20001]
    assert next_ports(20000, 20001, 0, {20000, 20001}, 1) == []
    assert next_ports(20000, 20002, 20001, (), 9) == [20001, 20002, 20000]


def _feasible(candidate, request):
    """How many fit, counted without the pipeline."""
    if refusal(candidate, request):
        return 0
    room = min(
        candidate.memory_mb_free // request.memory_mb,
        candidate.cpu_millis_free // request.cpu_millis,
        candidate.ports_free,
    )
    return min(room, 1) if request.rules.one_per_host else room


hosts_drawn = st.lists(
    st.builds(
        lambda **values: values,
        memory_mb=st.integers(0, 600),
        cpu_millis=st.integers(0, 600),
        memory_mb_claimed=st.integers(0, 300),
        cpu_millis_claimed=st.integers(0, 300),
        ports_free=st.integers(0, 5),
        status=st.sampled_from(["ready", "ready", "ready", "suspect"]),
        availability=st.sampled_from(["active", "active", "draining"]),
        zone=st.sampled_from(["", "a", "b"]),
        labels=st.sampled_from([{}, {"disk": "ssd"}, {"disk": "hdd"}]),
        dedicated_to=st.sampled_from([None, None, 1, 2]),
        own_instances=st.integers(0, 3),
        own_of_release=st.integers(0, 1),
        cpu_idle=st.sampled_from([None, 0.0, 0.5]),
    ),
    max_size=12,
)
requests_drawn = st.builds(
    Request,
    memory_mb=st.integers(16, 200),
    cpu_millis=st.integers(10, 200),
    tenant_id=st.just(1),
    rules=st.builds(
        Rules,
        constraints=st.sampled_from([(), (parse("disk == ssd"),), (parse("disk != hdd"),)]),
        one_per_host=st.booleans(),
    ),
    seed=st.text(max_size=3),
)
weights_drawn = st.dictionaries(st.sampled_from(sorted(DEFAULTS)), st.floats(0, 100), max_size=6)


@given(hosts_drawn, requests_drawn, st.integers(1, 15), weights_drawn)
def test_nothing_is_overcommitted_and_nothing_feasible_refused(drawn, request_, count, weights):
    hosts = [host(number, **values) for number, values in enumerate(drawn, start=1)]
    decision = place(request_, count, hosts, weights=weights)
    given_away = Counter(one.host_id for one in decision.placed)
    room = {one.host_id: _feasible(one, request_) for one in hosts}
    assert all(given_away[pk] <= room[pk] for pk in given_away)
    assert len(decision.placed) == min(count, sum(room.values()))
    if len(decision.placed) < count:
        assert sum(decision.refused.values()) == len(hosts), "every host is accounted for"
    assert place(request_, count, list(reversed(hosts)), weights=weights) == decision
