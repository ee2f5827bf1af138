"""What may be asked for as a health check, and what becomes of it."""

from __future__ import annotations

import pytest

from apps.deployments.checks import Check, CheckInvalid, Kind, checked, liveness_of, readiness_of
from apps.deployments.models import Release, Rollout
from apps.deployments.services.releases import STOP_SIGNALS, ReleaseInvalid
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.builder import ALLOWED_STOP_SIGNALS


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"kind": "udp"}, "kind"),
        ({"kind": ["http"]}, "kind"),
        ({"path": "no-slash"}, "path"),
        ({"path": "/a\r\nHost: evil"}, "path"),
        ({"path": "//\x00"}, "path"),
        ({"statuses": [200]}, "statuses"),
        ({"statuses": [400, 200]}, "statuses"),
        ({"statuses": [99, 200]}, "statuses"),
        ({"statuses": [200, 600]}, "statuses"),
        ({"statuses": "23"}, "statuses"),
        ({"statuses": [True, 399]}, "statuses"),
        ({"text": "a\0"}, "text"),
        ({"text": "x" * 201}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"command": "rm -rf /"}, "command"),
        ({"command": ["a", 1]}, "command"),
        ({"command": ["a\0b"]}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["x"] * 33}, "command"),
        ({"command": ["x" * 2001]}, "command"),
        ({"kind": "command"}, "command"),
        ({"kind": "tcp", "path": "/x"}, "path"),
        ({"kind": "tcp", "text": "x"}, "text"),
        ({"kind": "http", "command": ["x"]}, "command"),
        ({"interval_s": 0}, "interval_s"),
        ({"interval_s": 301}, "interval_s"),
        ({"interval_s": True}, "interval_s"),
        ({"interval_s": 1.5}, "interval_s"),
        ({"timeout_s": 61, "interval_s": 300}, "timeout_s"),
        ({"timeout_s": 5, "interval_s": 4}, "timeout_s"),
        ({"timeout_s": 3}, "timeout_s"),
        ({"start_period_s": 901}, "start_period_s"),
        ({"failures": 0}, "failures"),
        ({"failures": 21}, "failures"),
        ({"scheme": "https"}, ""),
    ],
)
def test_what_cannot_be_asked_is_refused_and_its_field_named(given, key):
    with pytest.raises(CheckInvalid) as refused:
        checked(given)
    assert refused.value.key == key


def test_liveness_has_no_start_period():
    assert checked({"start_period_s": 30})["start_period_s"] == 30
    with pytest.raises(CheckInvalid):
        checked({"start_period_s": 30}, startable=False)


def test_what_was_checked_becomes_a_check():
    release = Release(health_path="/up", readiness=checked({"text": "ok", "interval_s": 1, "failures": 5}))
    assert readiness_of(release) == Check(kind=Kind.HTTP, path="/up", text="ok", interval_s=1, timeout_s=1, failures=5)
    assert liveness_of(release) is None
    release = Release(health_path="", liveness=checked({"command": ["/bin/alive", "--now"]}, startable=False))
    assert readiness_of(release).kind is Kind.TCP
    assert liveness_of(release) == Check(kind=Kind.COMMAND, command=("/bin/alive", "--now"))


def test_a_release_from_before_checks_had_fields_is_asked_as_ever():
    assert readiness_of(Release(health_path="/_ping")) == Check(kind=Kind.HTTP, path="/_ping")
    assert readiness_of(Release(health_path="")) == Check(kind=Kind.TCP)


def test_the_stop_signals_are_those_that_the_builder_sends():
    assert set(STOP_SIGNALS) == ALLOWED_STOP_SIGNALS


def _next(app, world, **values):
    Rollout.objects.filter(app=app).update(status="succeeded")
    deploy(app, world, instances=1, **values)
    return app.releases.order_by("-number").first()


def test_settings_are_kept_from_release_to_release_until_others_are_given(app, world):
    first = _next(
        app,
        world,
        readiness={"path": "/ready", "interval_s": 5},
        liveness={"kind": "tcp"},
        on_failure="restart",
        stop_signal="SIGQUIT",
    )
    assert (first.health_path, first.readiness["interval_s"]) == ("/ready", 5)
    second = _next(app, world, memory_mb=128)
    for name in ("health_path", "readiness", "liveness", "on_failure", "stop_signal"):
        assert getattr(second, name) == getattr(first, name)
    third = _next(app, world, readiness={}, liveness={})
    assert (third.health_path, third.readiness, liveness_of(third)) == ("/ready", {}, None)


def test_the_health_path_alone_changes_what_is_asked_and_leaves_how_often(app, world):
    _next(app, world, readiness={"command": ["/bin/ok"], "interval_s": 10})
    by_path = readiness_of(_next(app, world, health_path="/up"))
    assert (by_path.kind, by_path.path, by_path.interval_s, by_path.command) == (Kind.HTTP, "/up", 10, ())
    by_tcp = readiness_of(_next(app, world, health_path=""))
    assert (by_tcp.kind, by_tcp.interval_s) == (Kind.TCP, 10)
    by_http = readiness_of(_next(app, world, readiness={"kind": "http"}))
    assert (by_http.kind, by_http.path) == (Kind.HTTP, "/_ping")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"readiness": {"path": "/a"}, "health_path": "/b"}, "health_path"),
        ({"readiness": {"kind": "tcp"}, "health_path": "/b"}, "health_path"),
        ({"readiness": {"kind": "http"}, "health_path": ""}, "health_path"),
        ({"readiness": {"interval_s": 0}}, "readiness.interval_s"),
        ({"liveness": {"start_period_s": 9}}, "liveness.start_period_s"),
        ({"liveness": {"what": 9}}, "liveness"),
        ({"on_failure": "explode"}, "on_failure"),
        ({"stop_signal": "SIGSTOP"}, "stop_signal"),
        ({"on_failure": "remove", "placement": {"global": True}}, "on_failure"),
    ],
)
def test_a_release_that_cannot_be_names_the_field(app, world, values, field):
    with pytest.raises(ReleaseInvalid) as refused:
        deploy(app, world, instances=None, **values)
    assert refused.value.extra["field"] == field
    assert not app.releases.exists()
