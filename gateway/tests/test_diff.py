"""Data planes, the operations between them, and slots."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import slots
from gateway.commands import commands, observe, used_connections
from gateway.contract import Address, Group, Policy, Route
from gateway.diff import difference, fits, wanted_plane
from gateway.model import (
    AddServer,
    AppState,
    DropEntry,
    Operation,
    Plane,
    RemoveServer,
    Server,
    SetEntry,
    SetWeight,
    Table,
)
from gateway.tables import owners

_names = st.sampled_from([f"{number:012x}" for number in range(6)])
_addresses = st.builds(Address, st.sampled_from(["10.0.0.1", "::1"]), st.integers(1, 3))
_servers = st.dictionaries(_names, st.tuples(_addresses, st.integers(0, 256)), min_size=1)
_names_of_slots = st.sampled_from([f"s{number:05d}" for number in range(4)])
_tables = st.fixed_dictionaries(
    {},
    optional={
        Table.HOST: st.dictionaries(st.sampled_from(["a.test", "b.test", "*.test"]), _names_of_slots, min_size=1),
        Table.PLACE: st.dictionaries(st.sampled_from(["a.test/", "a.test/x/", "*.test/"]), _names_of_slots, min_size=1),
        Table.POLICY: st.dictionaries(_names_of_slots, st.sampled_from(["m", "da", "b"]), min_size=1),
        Table.DENY: st.dictionaries(st.sampled_from(["s00000/8/0A", "s00001/32/FD00"]), st.just("1"), min_size=1),
    },
)
_planes = st.builds(
    lambda inside, tables, asleep: Plane(
        4,
        {
            slot: {name: Server(name, address, weight) for name, (address, weight) in servers.items()}
            for slot, servers in inside.items()
        },
        tables | ({Table.ASLEEP: dict.fromkeys(sleepers, "1")} if (sleepers := _named(asleep - inside.keys())) else {}),
    ),
    st.dictionaries(st.integers(0, 3), _servers),
    _tables,
    st.sets(st.integers(0, 3)),
)


def _named(slots_: Iterable[int]) -> list[str]:
    return [f"s{slot:05d}" for slot in slots_]


def _apply(plane: Plane, operations: Iterable[Operation]) -> Plane:
    """HAProxy as a model: it refuses what the real one refuses."""
    servers = {slot: dict(inside) for slot, inside in plane.servers.items()}
    tables = {table: dict(entries) for table, entries in plane.tables.items()}
    for operation in operations:
        match operation:
            case AddServer(slot, server):
                assert server.name not in servers.setdefault(slot, {})
                servers[slot][server.name] = server
            case SetWeight(slot, name, weight):
                servers[slot][name] = Server(name, servers[slot][name].address, weight)
            case RemoveServer(slot, name):
                del servers[slot][name]
            case SetEntry(table, key, value, new):
                assert table != Table.ASLEEP or not servers.get(int(key[1:]))
                assert (key not in tables.setdefault(table, {})) == new
                tables[table][key] = value
            case DropEntry(table, key):
                del tables[table][key]
    left = {table: entries for table, entries in tables.items() if entries}
    return Plane(plane.slots, {slot: inside for slot, inside in servers.items() if inside}, left)


@given(_planes, _planes)
def test_the_difference_turns_what_is_into_what_is_wanted(applied: Plane, wanted: Plane) -> None:
    assert _apply(applied, difference(applied, wanted)) == wanted
    assert difference(wanted, wanted) == ()


@given(_planes, _planes)
def test_commands_are_single_plain_lines(applied: Plane, wanted: Plane) -> None:
    for operation in difference(applied, wanted):
        assert all(line.isascii() and line.isprintable() and ";" not in line for line in commands(operation))


@given(_planes, _planes)
def test_new_servers_come_before_old_ones_leave(applied: Plane, wanted: Plane) -> None:
    """A slot that has servers before and after has some all the time, unless an address is replaced."""
    plane = applied
    operations = difference(applied, wanted)
    if any(isinstance(operation, RemoveServer) and operation.replaced for operation in operations):
        return
    steady = applied.servers.keys() & wanted.servers.keys()
    for operation in operations:
        plane = _apply(plane, [operation])
        assert steady <= plane.servers.keys()


def _app(app: str, *domains: str, instances: dict[str, dict[str, Address]] | None = None) -> AppState:
    return AppState(Route(app, 1, domains, {"1.0": 100}), instances or {})


def test_a_host_name_stays_with_the_app_that_has_it() -> None:
    apps = {"alpha": _app("alpha", "www.test"), "beta": _app("beta", "www.test", "b.test")}
    assert owners(apps, {}) == {"www.test": "alpha", "b.test": "beta"}
    assert owners(apps, {"www.test": "beta"})["www.test"] == "beta"
    assert owners(apps, {"www.test": "gone"})["www.test"] == "alpha"


def test_a_container_in_two_versions_counts_once() -> None:
    address = Address("10.0.0.1", 80)
    state = _app("shop", instances={"1.0": {"0123456789ab": address}, "2.0": {"0123456789ab": address}})
    plane = wanted_plane({"shop": state}, {"shop": 3}, {}, 4)
    assert plane.servers == {3: {"0123456789ab": Server("0123456789ab", address, 100)}}


def test_groups_count_instead_of_versions_where_there_are_any() -> None:
    old, new, odd = (f"{number:012x}" for number in range(3))
    instances = {"1.0": {old: Address("10.0.0.1", 80), new: Address("10.0.0.1", 81), odd: Address("10.0.0.1", 82)}}
    route = Route("shop", 1, (), {"1.0": 100}, groups=(Group(90, (old,)), Group(10, (new,))))
    plane = wanted_plane({"shop": AppState(route, instances)}, {"shop": 0}, {}, 1)
    assert {name: server.weight for name, server in plane.servers[0].items()} == {old: 99, new: 11, odd: 0}


def test_an_app_is_asleep_only_while_it_has_no_servers_and_its_route_says_so() -> None:
    def asleep(policy: Policy, *names: str) -> dict[str, str]:
        instances = {"1.0": {name: Address("10.0.0.1", 80) for name in names}} if names else {}
        state = AppState(Route("shop", 1, (), {"1.0": 100}, policy), instances)
        return dict(wanted_plane({"shop": state}, {"shop": 3}, {}, 4).table(Table.ASLEEP))

    assert asleep(Policy(asleep=True)) == {"s00003": "1"}
    assert asleep(Policy(asleep=True), "0123456789ab") == asleep(Policy()) == {}


def test_apps_keep_their_slots_and_new_ones_get_clean_ones() -> None:
    before = {"alpha": 0, "beta": 1}
    assert slots.assign(["beta", "gamma"], before, busy=[2]) == {"beta": 1, "gamma": 3}
    assert slots.assign(["beta", "gamma"], {"beta": 1}, busy=[]) == {"beta": 1, "gamma": 0}


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)), st.sets(st.integers(0, 40)))
def test_no_two_apps_share_a_slot(old: set[int], new: set[int], busy: set[int]) -> None:
    before = slots.assign([f"a{number}" for number in old], {}, [])
    after = slots.assign([f"a{number}" for number in new], before, busy)
    assert len(set(after.values())) == len(after) == len(new)
    assert all(after[app] == before[app] for app in after.keys() & before.keys())
    taken = {after[app] for app in after.keys() - before.keys()}
    assert not taken & (busy | set(before.values()))


@pytest.mark.parametrize(
    ("used", "declared", "expected", "wanted"),
    [
        (0, 0, 0, 16),  # a first start
        (3, 0, 0, 19),
        (100, 0, 0, 125),
        (1, 0, 1000, 1250),  # the first of many
        (15, 16, 0, 16),
        (16, 16, 0, 32),  # none is free
        (96, 100, 0, 120),  # fewer than 5 % are
        (10, 100, 0, 100),  # never fewer
    ],
)
def test_slots_are_declared_ahead(used: int, declared: int, expected: int, wanted: int) -> None:
    assigned = {f"a{number}": number for number in range(used)}
    assert slots.capacity(assigned, declared, 16, expected) == wanted


def test_a_plane_with_more_slots_does_not_fit() -> None:
    assert fits(Plane(4), Plane(4, tables={Table.HOST: {"a.test": "s00003"}}))
    assert not fits(Plane(4), Plane(4, tables={Table.HOST: {"a.test": "s00004"}}))
    assert not fits(Plane(4), Plane(5))
    assert not fits(Plane(4, tcp_slots=1), Plane(4, tables={Table.PORT: {"20000": "t00001"}}, tcp_slots=1))


SERVERS = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight time check_status \
check_result check_health check_state agent_state bk_f srv_f fqdn srv_port
3 s00000 1 aaaaaaaaaaaa 127.0.0.1 2 0 100 100 1 8 2 0 6 0 0 0 - 18081 - 0 0 - - 0
3 s00000 2 bbbbbbbbbbbb ::1 2 0 7 100 1 8 2 0 6 0 0 0 - 18082 - 0 0 - - 0
4 s00001 1 cccccccccccc 127.0.0.1 0 1 100 100 1 8 2 0 6 0 0 0 - 18083 - 0 0 - - 0
5 newest 1 newest - 2 0 1 1 1 8 2 0 6 0 0 0 - 0 - 0 0 - - 0
"""


def test_listings_become_a_plane() -> None:
    said = {Table.HOST: "0x55 a.test s00001\n0x56 b.test s00000\n", Table.ASLEEP: "0x57 s00001 1\n"}
    shown = "# certificates.list\nfallback.pem\ncertificates/c-1.pem a.test *.a.test\n"
    listings = [said.get(table, "") for table in Table]
    observed = observe("# name\nnewest\ns00000\ns00001\nt00000\n", SERVERS, shown, *listings)
    assert observed.plane == Plane(
        2,
        {
            0: {
                "aaaaaaaaaaaa": Server("aaaaaaaaaaaa", Address("127.0.0.1", 18081), 100),
                "bbbbbbbbbbbb": Server("bbbbbbbbbbbb", Address("::1", 18082), 7),
            }
        },
        {Table.HOST: {"a.test": "s00001", "b.test": "s00000"}, Table.ASLEEP: {"s00001": "1"}},
        1,
        {"certificates/c-1.pem": ("a.test", "*.a.test")},
    )
    assert observed.leaving == {(1, "cccccccccccc"): Address("127.0.0.1", 18083)}


def test_used_connections_are_read_by_column_name() -> None:
    listing = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max\ns00001/aaa 4/2 ::1 1 - 5 3 9\n"
    assert used_connections(listing) == {"aaa": 3}
