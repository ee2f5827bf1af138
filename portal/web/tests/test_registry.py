"""The registry's pages: what is shown, deleting a version, and what pushes deploy."""

from __future__ import annotations

from typing import Any

import pytest

from apps.core.clock import now
from apps.deployments.models import App
from apps.deployments.services.rollouts import rollout_start
from apps.registry.models import Manifest, Version
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import words

AMD = {"os": "linux", "architecture": "amd64", "variant": ""}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def read(shop: Any) -> Manifest:
    """The registry was asked about version 1.0."""
    Manifest.objects.update(
        kind="image",
        size_bytes=5 * 2**20,
        own_bytes=5 * 2**20,
        platforms=[AMD],
        config={
            "labels": {HOSTILE: HOSTILE, "items": "of a mapping"},
            "ports": ["8080/tcp"],
            "user": HOSTILE,
            "command": [HOSTILE],
        },
        described_at=now(),
    )
    return Manifest.objects.get()


def test_the_registry_lists_repositories_with_their_size_and_what_runs(
    shop: Any, read: Any, world: Any, browser: Browser
) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    text = words(browser("vera").get("/registry/").content)
    assert "shop" in text
    assert "5.0\xa0MB" in text or "5.0 MB" in text
    assert "1 instance" in text
    assert "shop" not in words(browser("charlie").get("/registry/").content)


def test_versions_say_their_size_and_platforms_and_only_managers_are_offered_to_delete(
    shop: Any, read: Any, world: Any, browser: Browser
) -> None:
    world.push(shop, "latest")
    text = words(browser("vera").get("/apps/shop/versions/").content)
    assert "linux/amd64" in text
    assert "= latest" in text
    for name, may in (("alice", True), ("bob", False), ("vera", False)):
        assert (b"versions/1.0/delete" in browser(name).get("/apps/shop/versions/").content) is may


def test_what_an_image_says_of_itself_is_text_and_nothing_else(shop: Any, read: Any, browser: Browser) -> None:
    content = browser("vera").get("/apps/shop/versions/1.0/").content
    assert HOSTILE.encode() not in content
    assert "&lt;script&gt;" in content.decode()


def test_a_version_is_deleted_after_it_was_asked_whether_that_is_meant(shop: Any, browser: Browser) -> None:
    alice = browser("alice")
    asked = words(alice.get("/apps/shop/versions/1.0/delete").content)
    assert "Delete shop:1.0?" in asked
    assert Version.objects.get().deleting_at is None
    answer = alice.post("/apps/shop/versions/1.0/delete", follow=True)
    assert "Version 1.0 is being deleted" in words(answer.content)
    assert Version.objects.get().deleting_at is not None
    assert alice.get("/apps/shop/versions/1.0/").status_code == 404


def test_deleting_what_runs_says_by_what_and_offers_no_button(shop: Any, world: Any, browser: Browser) -> None:
    rollout_start(app=shop, version="1.0", by=world.alice)
    alice = browser("alice")
    page = alice.get("/apps/shop/versions/1.0/delete")
    assert "release 1: 1 instance, a rollout" in words(page.content)
    assert b"btn-danger" not in page.content.split(b'id="confirm"')[0]
    answer = alice.post("/apps/shop/versions/1.0/delete")
    assert answer.status_code == 409
    assert "shop release 1" in words(answer.content)
    assert Version.objects.get().deleting_at is None


def test_what_was_replaced_is_shown_and_deleted_by_its_digest(shop: Any, world: Any, browser: Browser) -> None:
    old = Version.objects.get()
    world.push(shop, "1.0", "d" * 64)
    alice = browser("alice")
    assert old.digest not in alice.get("/apps/shop/versions/").content.decode()
    shown = alice.get("/apps/shop/versions/?replaced=1").content.decode()
    assert old.digest in shown
    assert '<span class="state state-quiet">replaced</span>' in shown
    assert alice.get(f"/apps/shop/versions/1.0/?digest={old.digest}").status_code == 200
    alice.post(f"/apps/shop/versions/1.0/delete?digest={old.digest}")
    old.refresh_from_db()
    assert old.deleting_at is not None
    assert Version.objects.get(is_current=True).digest.endswith("d")


def test_deploy_on_push_is_switched_on_changed_and_off(shop: Any, browser: Browser) -> None:
    bob = browser("bob")
    assert "Off: a push makes a version" in words(bob.get("/apps/shop/").content)
    answer = bob.post("/apps/shop/deploy-on-push", {"deploy_on_push": "v*"}, follow=True)
    text = words(answer.content)
    assert "Tags that match v* are deployed" in text
    assert "Switched on by bob" in text
    refused = bob.post("/apps/shop/deploy-on-push", {"deploy_on_push": "v[1]"})
    assert refused.status_code == 400
    assert "made of letters" in words(refused.content)
    assert App.objects.get().deploy_on_push == "v*"
    bob.post("/apps/shop/deploy-on-push", {"deploy_on_push": ""})
    assert App.objects.get().deploy_on_push == ""
    assert b"/apps/shop/deploy-on-push" not in browser("vera").get("/apps/shop/").content
