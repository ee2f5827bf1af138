"""Hosts that are drained and cut off, on real parts."""

from __future__ import annotations

import time

import pytest

from stack.journey import gateway_get, wait_for
from stack.parts.python import manage
from tests.e2e.test_whole_path import SMALL, _load, _published

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def owner(platform):
    """Of the other tenant: the first one's quota of apps is what the other tests need."""
    member = platform.member("rival", "owner")
    member.login()
    return member


@pytest.fixture
def app(owner, request):
    slug = f"h{abs(hash(request.node.name)) % 10**8}"
    owner.app_create("rival", slug)
    owner.push_sample(slug, "1.0")
    owner.version_wait(slug, "1.0")
    yield slug
    owner.undeploy(slug)


def _availability(platform, host, availability):
    code = (
        "from apps.hosts.models import Host; from apps.hosts.services.hosts import host_set_availability;"
        f"host_set_availability(host=Host.objects.get(name={host.name!r}), availability={availability!r})"
    )
    manage(platform.env, "shell", "--no-imports", "-c", code)


def test_draining_a_host_under_load_fails_no_request(platform, owner, app):
    owner.deploy(app, "1.0", instances=4, **SMALL)
    assert platform.labelled(0, app)
    try:
        with _load(platform, app) as outcomes:
            _availability(platform, platform.hosts[0], "draining")
            wait_for("the host to be empty", lambda: not platform.labelled(0, app), 90)
    finally:
        _availability(platform, platform.hosts[0], "active")
    assert set(outcomes) == {"200"}, outcomes
    assert outcomes["200"] > 100
    assert len(platform.labelled(1, app)) == 4
    assert set(_published(platform, app)["1.0"]) == set(platform.labelled(1, app))


def test_a_host_that_is_cut_off_is_replaced_within_20_s_and_cleaned_within_10_s_of_its_return(
    platform,
    owner,
    app,
):
    owner.deploy(app, "1.0", instances=4, **SMALL)
    stale = set(platform.labelled(0, app))
    assert stale
    host = platform.hosts[0]
    host.cut()
    try:
        began = time.monotonic()

        def served_elsewhere() -> bool:
            routed = set(_published(platform, app)["1.0"])
            return len(routed) == 4 and not routed & stale

        wait_for("all four to be routed without the host", served_elsewhere, 60)
        wait_for("the gateway to answer", lambda: gateway_get(platform.env, app).status_code == 200, 10)
        replaced = time.monotonic() - began
        assert set(platform.labelled(0, app)) == stale, "nobody could reach them"
    finally:
        host.restore()
    began = time.monotonic()
    wait_for("the stale containers to go", lambda: not stale & set(platform.labelled(0, app)), 60)
    cleaned = time.monotonic() - began
    assert replaced < 20, f"{replaced:.1f} s"
    assert cleaned < 10, f"{cleaned:.1f} s"
    everywhere = platform.labelled(0, app) + platform.labelled(1, app)
    assert len(everywhere) == 4
    assert set(_published(platform, app)["1.0"]) == set(everywhere)
