"""The publisher against a real ZooKeeper: exact nodes, races, permissions, and a ZooKeeper that lost its data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, NoAuthError

from apps.deployments.discovery import AT_ONCE, DiscoveryUnavailable, EpochMissing, Publisher
from apps.deployments.selectors import Publication, Published
from gateway import contract
from stack.environment import Environment
from stack.journey import wait_for
from stack.parts.zookeeper import zookeeper
from stack.runner import Stack

pytestmark = pytest.mark.real

A = Published("1.0", "a" * 64, "10.0.0.1", 20001)
B = Published("1.0", "b" * 64, "10.0.0.2", 20002)
BASE = Publication("shop", 1, ("shop.localhost",), {"1.0": 100}, (A, B))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[Environment, Stack]]:
    env = Environment.open(tmp_path_factory.mktemp("discovery"))
    with Stack(env.directory, [zookeeper(env)]) as stack:
        yield env, stack


def _publisher(env):
    variables = env.variables()
    return Publisher(
        hosts=variables["BERTH_ZOOKEEPER"],
        credential=variables["BERTH_ZOOKEEPER_PUBLISHER"],
        gateway_credential=variables["BERTH_ZOOKEEPER_GATEWAY"],
    )


def _client(env, credential=None):
    auth = [("digest", env.variables()[credential])] if credential else []
    client = KazooClient(env.variables()["BERTH_ZOOKEEPER"], auth_data=auth)
    client.start(timeout=10)
    return client


@pytest.fixture
def publisher(server):
    """A publisher in an empty tree with an epoch."""
    env, _ = server
    root = _client(env, "BERTH_ZOOKEEPER_PUBLISHER")
    if root.exists(contract.ROOT):
        root.delete(contract.ROOT, recursive=True)
    root.stop()
    publisher = _publisher(env)
    publisher.epoch_begin()
    yield publisher
    publisher.close()


def _tree(env):
    client = _client(env, "BERTH_ZOOKEEPER_GATEWAY")
    found = {}

    def walk(path):
        found[path] = client.get(path)[0].decode()
        for child in client.get_children(path):
            walk(f"{path}/{child}")

    walk(contract.SERVICE_PATH)
    client.stop()
    return found


def test_a_publication_writes_exactly_its_nodes_and_the_next_one_only_the_difference(server, publisher):
    env, _ = server
    first = publisher.publish("shop", lambda: BASE)
    tree = _tree(env)
    assert {path: text for path, text in tree.items() if path.count("/") == 6} == {
        f"/caas/service/address/shop/1.0/{A.container_id}": "10.0.0.1:20001",
        f"/caas/service/address/shop/1.0/{B.container_id}": "10.0.0.2:20002",
    }
    route = contract.Route.from_json(tree["/caas/service/route/shop"].encode())
    assert (route.revision, route.domains, dict(route.weights)) == (1, ("shop.localhost",), {"1.0": 100})
    second = publisher.publish("shop", lambda: replace(BASE, instances=(B,)))
    assert second.zxid > first.zxid
    assert f"/caas/service/address/shop/1.0/{A.container_id}" not in _tree(env)
    third = publisher.publish("shop", lambda: replace(BASE, instances=()))
    assert third.zxid > second.zxid
    assert not [path for path in _tree(env) if path.startswith("/caas/service/address/shop/")]
    assert publisher.publish("shop", lambda: replace(BASE, instances=())).zxid == third.zxid


def test_shares_of_releases_and_the_policy_stand_in_the_route(server, publisher):
    env, _ = server
    groups = ((90, (A.container_id,)), (10, (B.container_id,)))
    first = publisher.publish("shop", lambda: replace(BASE, groups=groups, policy=contract.Policy(asleep=True)))
    route = contract.Route.from_json(_tree(env)["/caas/service/route/shop"].encode())
    assert route.groups == (contract.Group(90, (A.container_id,)), contract.Group(10, (B.container_id,)))
    assert route.policy.asleep
    # A change of shares alone is a publication; the same once more is none.
    second = publisher.publish("shop", lambda: replace(BASE, groups=groups))
    assert second.zxid > first.zxid
    assert publisher.publish("shop", lambda: replace(BASE, groups=groups)).zxid == second.zxid


@pytest.fixture
def readings(publisher, monkeypatch):
    """The apps whose addresses were read, in order."""
    made, read = [], publisher._addresses

    def counted(app):
        made.append(app)
        return read(app)

    monkeypatch.setattr(publisher, "_addresses", counted)
    return made


def test_what_this_process_published_last_is_not_read_again(server, publisher, readings):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
    readings.clear()
    publisher.publish("shop", lambda: replace(BASE, instances=(B,)))
    publisher.publish("shop", lambda: replace(BASE, instances=(B,)))
    publisher.publish("shop", lambda: BASE)
    assert readings == []
    assert {path: text for path, text in _tree(env).items() if path.count("/") == 6} == {
        f"/caas/service/address/shop/1.0/{A.container_id}": "10.0.0.1:20001",
        f"/caas/service/address/shop/1.0/{B.container_id}": "10.0.0.2:20002",
    }


def test_what_was_read_and_needed_no_change_is_kept_too(publisher, readings):
    publisher.publish("shop", lambda: BASE)
    publisher.publish("shop", lambda: BASE)
    readings.clear()
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
    assert readings == []


def test_after_anothers_publication_everything_is_read_again(server, publisher, readings):
    env, _ = server
    other = _publisher(env)
    theirs = Published("2.0", "c" * 64, "10.0.0.3", 20003)
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
    publisher.publish("shop", lambda: BASE)
    other.publish("shop", lambda: replace(BASE, instances=(A, B, theirs)))
    readings.clear()
    publisher.publish("shop", lambda: replace(BASE, instances=(B,)))
    assert readings == ["shop"]
    assert publisher.published() == {"shop": {("1.0", B.container_id): "10.0.0.2:20002"}}
    other.close()


def test_a_route_that_was_removed_and_made_anew_is_another(server, publisher, readings):
    env, _ = server
    other = _publisher(env)
    for instances in ((), (A,)):
        publisher.publish("shop", lambda instances=instances: replace(BASE, instances=instances))
    other.prune(lambda listed: set())
    for instances in ((), (B,)):  # as many publications as before: the same version of another node
        other.publish("shop", lambda instances=instances: replace(BASE, instances=instances))
    readings.clear()
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
    assert readings == ["shop"]
    assert publisher.published() == {"shop": {("1.0", A.container_id): "10.0.0.1:20001"}}
    other.close()


def test_a_rebuild_reads_everything_and_mends_what_a_hand_changed(server, publisher, readings):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
    hand = _client(env, "BERTH_ZOOKEEPER_PUBLISHER")
    hand.set(contract.instance_path("shop", "1.0", A.container_id), b"10.9.9.9:1")
    hand.stop()
    readings.clear()
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)), rebuilding=True)
    assert readings == ["shop"]
    assert publisher.published() == {"shop": {("1.0", A.container_id): "10.0.0.1:20001"}}


def test_after_a_failure_nothing_is_believed_that_was_kept(publisher, readings, monkeypatch):
    publisher.publish("shop", lambda: BASE)
    publisher.publish("shop", lambda: replace(BASE, instances=(A,)))

    def lost():
        raise ConnectionLoss

    with monkeypatch.context() as broken:
        broken.setattr(publisher._client, "transaction", lost)
        with pytest.raises(DiscoveryUnavailable):
            publisher.publish("shop", lambda: BASE)
    readings.clear()
    publisher.publish("shop", lambda: BASE)
    assert readings == ["shop"]


def test_many_instances_are_read_as_they_stand(publisher):
    many = tuple(
        Published(f"1.{number % 3}", f"{number:064x}", "10.0.0.1", 20000 + number) for number in range(AT_ONCE + 200)
    )
    publisher.publish("shop", lambda: replace(BASE, instances=many))
    want = {(one.version, one.container_id): f"{one.host}:{one.port}" for one in many}
    assert publisher.published() == {"shop": want}
    publisher.publish("shop", lambda: replace(BASE, instances=many[:1]))
    assert list(publisher.published()["shop"]) == [(many[0].version, many[0].container_id)]


def test_what_is_published_can_be_read_back_for_the_audit(publisher):
    assert publisher.published() == {}
    publisher.publish("shop", lambda: BASE)
    publisher.publish("blog", lambda: replace(BASE, app="blog", instances=()))
    shop = {("1.0", A.container_id): "10.0.0.1:20001", ("1.0", B.container_id): "10.0.0.2:20002"}
    assert publisher.published() == {"shop": shop, "blog": {}}


def test_an_unchanged_publication_never_answers_with_a_zxid_from_before_anothers_change(server, publisher):
    env, _ = server
    other = _publisher(env)
    publisher.publish("shop", lambda: BASE)
    removed = []

    def read():
        # Between the look at the route and the look at the addresses, somebody else publishes the same.
        if not removed:
            removed.append(other.publish("shop", lambda: replace(BASE, instances=(A,))).zxid)
        return replace(BASE, instances=(A,))

    assert publisher.publish("shop", read).zxid >= removed[0]
    other.close()


def test_of_two_publishers_that_race_the_one_with_the_older_view_reads_again(server, publisher):
    env, _ = server
    other = _publisher(env)
    publisher.publish("shop", lambda: BASE)
    views = [replace(BASE, instances=(A, B)), replace(BASE, instances=())]

    def read():
        view = views.pop(0)
        if views:
            other.publish("shop", lambda: replace(BASE, instances=(), domains=("other.localhost",)))
        return view

    publisher.publish("shop", read)
    assert views == [], "it was asked a second time"
    assert not [path for path in _tree(env) if path.startswith("/caas/service/address/shop/")]
    other.close()


def test_garbage_in_a_route_is_written_over(server, publisher):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    client = _client(env, "BERTH_ZOOKEEPER_PUBLISHER")
    client.set("/caas/service/route/shop", b"{not json")
    client.stop()
    publisher.publish("shop", lambda: BASE)
    assert contract.Route.from_json(_tree(env)["/caas/service/route/shop"].encode()).domains == ("shop.localhost",)


def test_gateways_read_and_write_only_their_own_node_and_strangers_read_nothing(server, publisher):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    gateway = _client(env, "BERTH_ZOOKEEPER_GATEWAY")
    assert gateway.get("/caas/service/route/shop")
    with pytest.raises(NoAuthError):
        gateway.set("/caas/service/route/shop", b"x")
    with pytest.raises(NoAuthError):
        gateway.create("/caas/service/route/mine", b"x")
    gateway.create("/caas/gateway/gw-1", contract.GatewayState("gw-1", "e", 7).to_json(), ephemeral=True)
    assert [state.served for state in publisher.gateways()] == [7]
    gateway.stop()
    stranger = _client(env)
    for path in ("/caas/service/route/shop", f"/caas/service/address/shop/1.0/{A.container_id}", "/caas/epoch"):
        with pytest.raises(NoAuthError):
            stranger.get(path)
    stranger.stop()


def test_nothing_is_published_without_an_epoch_but_by_a_rebuild(server, publisher):
    env, _ = server
    client = _client(env, "BERTH_ZOOKEEPER_PUBLISHER")
    client.delete(contract.EPOCH_PATH)
    client.stop()
    with pytest.raises(EpochMissing):
        publisher.publish("shop", lambda: BASE)
    assert publisher.publish("shop", lambda: BASE, rebuilding=True).epoch == ""
    begun = publisher.epoch_begin()
    assert publisher.publish("shop", lambda: BASE).epoch == begun


def test_unknown_routes_are_removed_unless_too_many_are_unknown(server, publisher):
    for number in range(12):
        publisher.publish(f"app{number}", lambda number=number: replace(BASE, app=f"app{number}"))
    with pytest.raises(DiscoveryUnavailable, match="none is removed"):
        publisher.prune(lambda listed: set())
    assert publisher.prune(lambda listed: set(listed) - {"app3"}) == 1
    assert publisher.prune(lambda listed: set(listed)) == 0


def test_a_zookeeper_that_lost_its_data_is_published_to_again_by_the_same_process(server, publisher):
    env, stack = server
    for _ in range(20):
        publisher.publish("shop", lambda: replace(BASE, instances=(A,)))
        publisher.publish("shop", lambda: BASE)
    stack.stop_part("zookeeper")
    with pytest.raises(DiscoveryUnavailable):
        publisher.ping()
    shutil.rmtree(env.directory / "zookeeper" / "data")
    stack.start_part("zookeeper")

    def rebuilt():
        try:
            return publisher.publish("shop", lambda: BASE, rebuilding=True)
        except DiscoveryUnavailable:
            return None

    assert wait_for("the publisher to be let in again", rebuilt, 60).zxid > 0
    assert "/caas/service/route/shop" in _tree(env)


def test_threads_that_all_find_no_connection_make_one(server, monkeypatch):
    env, _ = server
    made = []

    class Counted(KazooClient):
        def __init__(self, **values):
            made.append(self)
            super().__init__(**values)

    monkeypatch.setattr("apps.deployments.discovery.KazooClient", Counted)
    publisher = _publisher(env)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: publisher.ping(), range(16)))
    publisher.close()
    assert len(made) == 1


def test_while_zookeeper_can_not_be_reached_one_waits_and_the_others_are_told_at_once(server, monkeypatch):
    env, stack = server
    tries = []

    class Counted(KazooClient):
        def start(self, timeout=15):
            tries.append(timeout)
            return super().start(timeout=0.5)

    monkeypatch.setattr("apps.deployments.discovery.KazooClient", Counted)
    publisher = _publisher(env)
    stack.stop_part("zookeeper")
    try:
        for _ in range(5):
            with pytest.raises(DiscoveryUnavailable):
                publisher.ping()
        assert len(tries) == 1
    finally:
        stack.start_part("zookeeper")


def test_an_app_that_is_gone_is_withdrawn_whole_and_one_that_is_not_stays(server, publisher):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    publisher.publish("blog", lambda: replace(BASE, app="blog"))
    before = _tree(env)
    assert publisher.withdraw("shop", lambda: False) is False
    assert _tree(env) == before
    assert publisher.withdraw("shop", lambda: True) is True
    assert [path for path in _tree(env) if "shop" in path] == []
    assert [path for path in _tree(env) if "blog" in path] == [path for path in before if "blog" in path]
    assert publisher.withdraw("shop", lambda: True) is True, "again does no harm"


def test_a_publication_between_the_look_and_the_withdrawal_is_not_lost(server, publisher):
    env, _ = server
    publisher.publish("shop", lambda: BASE)
    asked = []

    def gone():
        asked.append(1)
        if len(asked) == 1:
            other = _publisher(env)
            other.publish("shop", lambda: replace(BASE, wanted=2, instances=(A,)))
            other.close()
            return True
        return False

    assert publisher.withdraw("shop", gone) is False
    assert "/caas/service/route/shop" in _tree(env)
    assert f"/caas/service/address/shop/1.0/{A.container_id}" in _tree(env)
