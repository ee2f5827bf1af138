"""What members are told of what gateways counted, and what operators are told of gateways."""

from __future__ import annotations

from bisect import bisect_left
from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse

from apps.core.clock import now
from apps.deployments.models import App, Gateway
from apps.deployments.selectors.gateways import counting_gateways, with_lag
from apps.deployments.services.routing import gateways_seen
from apps.deployments.statistics import statistics_of, summed
from apps.deployments.tests.test_traffic import Answers
from apps.deployments.traffic import Traffic
from gateway.contract import (
    ANSWER_BOUNDS_MS,
    ANSWER_BUCKETS,
    STATUS_CLASSES,
    WINDOWS,
    AppTraffic,
    GatewayState,
    Window,
)


def _window(requests: int, errors: int = 0, ms: int = 10, seconds: float = 10.0, busy_ms: int = 0) -> Window:
    histogram = [0] * ANSWER_BUCKETS
    histogram[bisect_left(ANSWER_BOUNDS_MS, ms)] = requests
    classes = {**dict.fromkeys(STATUS_CLASSES, 0), "2": requests - errors, "5": errors}
    return Window(seconds, classes, 100 * requests, 1000 * requests, busy_ms, tuple(histogram))


def _told(gateway: str = "gw-1", app: str = "shop", *, listening: bool = True, **versions: Window) -> AppTraffic:
    windows = {tag.replace("v", "").replace("_", "."): dict.fromkeys(WINDOWS, one) for tag, one in versions.items()}
    counted = dict.fromkeys(STATUS_CLASSES, 0)
    return AppTraffic(gateway, app, "0" * 36, 0, counted, 0, 0, listening, 0, {}, {}, windows)


@pytest.fixture
def told_by() -> Any:
    made: list[Answers] = []

    def make(name: str, told: AppTraffic | None = None, **values: Any) -> Answers:
        answers = Answers()
        made.append(answers)
        answers.body = told.to_json() if told is not None else None
        gateways_seen(states=[GatewayState(name, "e", 1, answers.address)])
        Gateway.objects.filter(name=name).update(**values)
        return answers

    yield make
    for one in made:
        one.close()


def test_all_gateways_and_versions_together_are_the_app() -> None:
    told = [
        _told("gw-1", v1_0=_window(90, 0, ms=10, busy_ms=900), v2_0=_window(10, 5, ms=500)),
        # It began to count 2 s ago: as many requests, five times the rate.
        _told("gw-2", v1_0=_window(20, 1, ms=10, seconds=2.0), v=_window(10, 10)),
    ]
    found = summed(told, expected=2)
    whole = found.windows["10s"]
    assert (whole.requests, whole.errors_5xx, whole.bytes_in, whole.bytes_out) == (130, 16, 13_000, 130_000)
    assert whole.errors_share == pytest.approx(16 / 130, abs=1e-4)
    assert whole.per_second == pytest.approx((90 + 10) / 10 + 20 / 2 + 10 / 10)
    assert whole.concurrency == pytest.approx(0.09)
    assert whole.p50_ms <= 10
    assert 400 <= whole.p99_ms <= 500
    assert found.versions.keys() == {"1.0", "2.0"}
    assert found.versions["2.0"]["1h"].errors_share == 0.5


def test_what_is_missing_is_said() -> None:
    one = _told(v1_0=_window(1))
    assert summed([one], expected=1).complete
    assert not summed([one], expected=2).complete
    assert not summed([_told(listening=False, v1_0=_window(1))], expected=1).complete
    nobody = summed([], expected=0)
    assert (nobody.known, nobody.versions) == (False, {})
    assert nobody.windows["1h"].p95_ms == 0


def test_a_version_that_was_asked_nothing_for_an_hour_is_not_shown() -> None:
    assert summed([_told(v1_0=_window(0), v2_0=_window(3))], expected=1).versions.keys() == {"2.0"}


def test_live_gateways_are_asked_where_they_last_said_and_the_answer_is_kept_a_moment(world: Any, told_by: Any) -> None:
    app = world.app()
    first = told_by("gw-1", _told("gw-1", v1_0=_window(3)))
    dead = told_by("gw-2", _told("gw-2", v1_0=_window(900)), last_seen_at=now() - timedelta(hours=1))
    told_by("gw-3", _told("gw-3", v1_0=_window(900)), stats="")
    assert [state.gateway for state in counting_gateways()] == ["gw-1"]
    assert statistics_of(app, Traffic()).windows["10s"].requests == 3
    assert statistics_of(app, Traffic()).complete
    assert first.asked == ["/stats?app=shop&windows=1"]
    assert dead.asked == []


def test_what_is_kept_of_one_app_is_not_told_of_another(world: Any, told_by: Any) -> None:
    told_by("gw-1", _told("gw-1", v1_0=_window(3)))
    assert statistics_of(world.app("shop"), Traffic()).known
    assert not statistics_of(world.app("blog"), Traffic()).known


def test_members_are_told_over_the_api_and_strangers_are_not(world: Any, client: Any, told_by: Any) -> None:
    world.app()
    answers = told_by("gw-secret-name", _told("gw-secret-name", v1_0=_window(4, 1)))
    client.force_login(world.charlie)
    assert client.get("/api/v1/apps/shop/traffic/").status_code == 404
    assert answers.asked == []
    client.force_login(world.vera)
    reply = client.get("/api/v1/apps/shop/traffic/")
    body = reply.json()
    assert (body["known"], body["complete"]) == (True, True)
    assert body["windows"]["1m"]["errors_share"] == body["versions"]["1.0"]["10s"]["errors_share"] == 0.25
    # Of the machines that tell, nothing is told.
    assert b"gw-secret" not in reply.content
    assert answers.address.encode() not in reply.content


def test_a_platform_without_gateways_says_that_it_does_not_know(world: Any, client: Any) -> None:
    world.app()
    client.force_login(world.alice)
    body = client.get("/api/v1/apps/shop/traffic/").json()
    assert (body["known"], body["versions"], body["windows"]["10s"]["requests"]) == (False, {}, 0)


def test_the_page_shows_the_whole_app_and_each_version(world: Any, client: Any, told_by: Any) -> None:
    world.push(world.app())
    told_by("gw-1", _told("gw-1", v1_0=_window(40, 10, ms=250)))
    client.force_login(world.vera)
    for url in ("/apps/shop/statistics", "/apps/shop/statistics/live"):
        text = client.get(url).content.decode()
        assert text.count("25 %") == 6
        assert "<code>1.0</code>" in text
    # The app's page does not wait for gateways.
    assert 'hx-get="/apps/shop/statistics/live"' in client.get("/apps/shop/").content.decode()


def test_operators_see_how_far_each_gateway_is(world: Any, client: Any) -> None:
    for slug, zxid in (("shop", 10), ("blog", 20), ("wiki", 30)):
        App.objects.filter(pk=world.app(slug).pk).update(route_epoch="e", route_zxid=zxid)
    states = [GatewayState("gw-1", "e", 30), GatewayState("gw-2", "e", 10), GatewayState("gw-3", "older", 99)]
    gateways_seen(states=states)
    Gateway.objects.filter(name="gw-2").update(last_seen_at=now() - timedelta(seconds=700))
    assert [row.unserved_apps for row in with_lag(Gateway.objects.all())] == [0, 2, 0]  # type: ignore[attr-defined]
    world.alice.is_staff = world.alice.is_superuser = True
    world.alice.save()
    client.force_login(world.alice)
    text = client.get(reverse("admin:deployments_gateway_changelist")).content.decode()
    assert "2 apps" in text
    assert "700 s ago" in text
