"""What readings do to the apps that are served, and what stays on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import state
from gateway.contract import Address, Route
from gateway.model import AppState
from gateway.reading import parse
from gateway.settings import Settings, SettingsError
from gateway.state import Saved
from gateway.wanted import Reading, Wanted

ONE, TWO = Address("10.0.0.1", 80), Address("10.0.0.2", 80)
NAME, OTHER = "0123456789ab", "0123456789ac"


def _state(app: str, **instances: Address) -> AppState:
    return AppState(Route(app, 1, (f"{app}.test",), {"1.0": 100}), {"1.0": instances} if instances else {})


def _reading(app: str, **instances: Address) -> Reading:
    made = _state(app, **instances)
    return Reading(made.route, made.instances)


def test_readings_change_and_remove_apps() -> None:
    wanted = Wanted({}, "e1", 30)
    wanted.read({"shop": _reading("shop"), "blog": _reading("blog")})
    assert wanted.apps.keys() == {"shop", "blog"}
    revision = wanted.revision
    wanted.read({"shop": _reading("shop")})
    assert wanted.revision == revision
    wanted.read({"shop": None})
    assert wanted.apps.keys() == {"blog"}
    wanted.listed([])
    assert wanted.apps == {}
    assert wanted.revision == revision + 2


def test_a_broken_route_keeps_the_last_good_one_but_not_what_was_taken_away() -> None:
    last = AppState(Route("shop", 1, (), {"1.0": 100}), {"1.0": {NAME: ONE, OTHER: TWO}})
    wanted = Wanted({"shop": last}, "e1", 30)
    wanted.read({"shop": Reading(None, {"1.0": {NAME: ONE, OTHER: Address("10.0.0.9", 80)}})})
    assert wanted.apps["shop"] == AppState(last.route, {"1.0": {NAME: ONE}})
    wanted.read({"never-good": Reading(None, {})})
    assert "never-good" not in wanted.apps


def test_a_new_epoch_drops_nobody_within_the_grace() -> None:
    wanted = Wanted({"shop": _state("shop"), "blog": _state("blog"), "old": _state("old")}, "e1", 30)
    assert wanted.enter("e2", now=100)
    assert not wanted.enter("e2", now=101)
    wanted.listed([])
    wanted.read({"shop": _reading("shop"), "old": None})
    assert wanted.apps.keys() == {"shop", "blog", "old"}
    assert wanted.in_grace
    assert wanted.expire(now=129) == ()
    # An app that was read in the new epoch is not protected any more.
    wanted.listed(["blog"])
    assert wanted.apps.keys() == {"blog", "old"}
    wanted.read({"blog": _reading("blog")})
    assert wanted.expire(now=130) == ("old",)
    assert wanted.apps.keys() == {"blog"}
    assert not wanted.in_grace


def test_bad_addresses_are_left_out_and_named() -> None:
    route = Route("shop", 1, ("shop.test",), {"1.0": 100}).to_json()
    reading = parse("shop", route, {"1.0": {NAME: b"10.0.0.1:80", OTHER: b"0.0.0.0:80", "x": b"10.0.0.1:81"}})
    assert reading.route is not None
    assert reading.instances == {"1.0": {NAME: ONE}}
    assert len(reading.faults) == 2
    assert parse("blog", route, {}).route is None
    assert parse("shop", b"[" * 100_000, {"1.0": {NAME: b"\xff"}}).route is None


def test_the_state_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = Saved("e1", 77, {"shop": _state("shop", **{NAME: ONE})}, {"shop": 4}, {"shop.test": "shop"})
    state.save(tmp_path / "state.json", saved)
    assert state.load(tmp_path / "state.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format":2}',
        '{"format":1,"epoch":"","seen":0,"slots":{"a":1,"b":1},"owners":{},"apps":{}}',
        '{"format":1,"epoch":"","seen":0,"slots":{},"owners":{"a b":"c"},"apps":{}}',
        '{"format":1,"epoch":"","seen":0,"slots":{},"owners":{},"apps":{"a":{"route":{},"instances":{}}}}',
        "[" * 100_000,
    ],
)
def test_a_corrupt_state_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    assert state.load(path) == Saved()
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("state.json.corrupt-")
    assert aside.read_text() == text


ENVIRONMENT = {
    "BERTH_GATEWAY_ID": "gw1",
    "BERTH_GATEWAY_DIR": "/var/lib/berth-gateway",
    "BERTH_ZOOKEEPER": "127.0.0.1:2181,zk2.example.com:2181",
    "BERTH_ZOOKEEPER_GATEWAY": "gateway:long-password",
    "BERTH_GATEWAY_HTTP_BIND": "0.0.0.0:8080",
    "BERTH_GATEWAY_STATUS_BIND": "[::1]:8081",
    "BERTH_GATEWAY_HAPROXY": "/bin/sh",
}


def test_settings_are_read_and_the_password_is_not_shown() -> None:
    settings = Settings.from_environment(ENVIRONMENT)
    assert settings.status_bind == Address("::1", 8081)
    assert (settings.log_bind, settings.stats_advertise) == (Address("127.0.0.1", 9514), "[::1]:8081")
    assert settings.spare_slots == 16
    assert settings.max_connections >= 100
    assert "long-password" not in repr(settings)


def test_where_counters_are_read_is_told_unless_nobody_could_connect_there() -> None:
    anywhere = {**ENVIRONMENT, "BERTH_GATEWAY_STATUS_BIND": "0.0.0.0:8081"}
    assert Settings.from_environment(anywhere).stats_advertise == ""
    told = {**anywhere, "BERTH_GATEWAY_STATS_ADVERTISE": "10.0.0.7:8081"}
    assert Settings.from_environment(told).stats_advertise == "10.0.0.7:8081"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BERTH_GATEWAY_LOG_BIND", "0.0.0.0:9514"),
        ("BERTH_GATEWAY_LOG_BIND", "10.0.0.7:9514"),
        ("BERTH_GATEWAY_LOG_BIND", "localhost:9514"),
        ("BERTH_GATEWAY_STATS_ADVERTISE", "gateway.test:8081"),
        ("BERTH_GATEWAY_STATS_ADVERTISE", "[::]:8081"),
        ("BERTH_GATEWAY_ID", ""),
        ("BERTH_GATEWAY_ID", "Bad_Id"),
        ("BERTH_GATEWAY_DIR", "relative"),
        ("BERTH_GATEWAY_DIR", "/with space"),
        ("BERTH_GATEWAY_DIR", "/a/../b"),
        ("BERTH_ZOOKEEPER", "nowhere"),
        ("BERTH_ZOOKEEPER_GATEWAY", "gateway"),
        ("BERTH_ZOOKEEPER_GATEWAY", "gateway:short"),
        ("BERTH_GATEWAY_HTTP_BIND", "localhost:80"),
        ("BERTH_GATEWAY_HAPROXY", "/nowhere/haproxy"),
        ("BERTH_GATEWAY_SPARE_SLOTS", "0"),
        ("BERTH_GATEWAY_SPARE_SLOTS", "many"),
        ("BERTH_GATEWAY_KEEP_HAPROXY", "maybe"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({**ENVIRONMENT, name: value})
