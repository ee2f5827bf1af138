"""Hosts that are drained, cut off and hung, on real parts."""

from __future__ import annotations

import time

import pytest

from stack.journey import gateway_get, wait_for
from stack.platform import hung
from tests.e2e.test_whole_path import SMALL, _load, _published

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def owner(platform):
    member = platform.member("fleet", "owner")
    member.login()
    return member


@pytest.fixture
def app(owner, request):
    slug = f"h{abs(hash(request.node.name)) % 10**8}"
    owner.app_create("fleet", slug)
    owner.push_sample(slug, "1.0")
    owner.version_wait(slug, "1.0")
    yield slug
    owner.undeploy(slug)


def test_draining_a_host_under_load_fails_no_request(platform, owner, app):
    owner.deploy(app, "1.0", instances=4, **SMALL)
    assert platform.labelled(0, app)
    try:
        with _load(platform, app) as outcomes:
            platform.host_availability(0, "draining")
            wait_for("the host to be empty", lambda: not platform.labelled(0, app), 90)
    finally:
        platform.host_availability(0, "active")
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


@pytest.fixture
def third(platform):
    """The third host takes instances; only an app that names it gets there while the others have room."""
    platform.host_availability(2, "active")
    yield
    platform.host_availability(2, "cordoned")


def test_deploys_go_on_and_nothing_moves_while_the_engines_of_two_hosts_of_three_hang(platform, owner, app, third):
    owner.deploy(app, "1.0", instances=2, placement={"constraints": ["number != 3"]}, **SMALL)
    there = platform.labelled(0, app) + platform.labelled(1, app)
    slug = f"{app}-third"
    owner.app_create("fleet", slug)
    owner.push_sample(slug, "1.0")
    owner.version_wait(slug, "1.0")
    pinned = {"instances": 1, "placement": {"constraints": ["number == 3"]}, **SMALL}
    with _load(platform, app) as outcomes:
        with hung(platform.hosts[:2]):
            # One before the platform has noticed, one after.
            for number in (1, 2):
                rollout = owner.deploy(slug, "1.0", env={"NUMBER": str(number)}, **pinned)
                assert rollout["status"] == "succeeded", rollout
                wait_for("the hosts to be down", lambda: {platform.host_status(0), platform.host_status(1)} == {"down"})
            assert len(platform.labelled(2, slug)) == 1
        wait_for("the hosts", lambda: {platform.host_status(0), platform.host_status(1)} == {"ready"})
    owner.undeploy(slug)
    assert set(outcomes) == {"200"}, outcomes
    # More than half of the hosts went at once: that is no reason to start everything anew on the rest.
    assert sorted(platform.labelled(0, app) + platform.labelled(1, app)) == sorted(there)
    assert set(_published(platform, app)["1.0"]) == set(there)
