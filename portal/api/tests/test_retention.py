"""The clean-up by API: rules, trial, application, and the tenant's storage."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from apps.core.clock import now
from apps.registry.models import Version
from apps.tenants.models import Quota

AT = "/api/v1/apps/shop/retention/"


@pytest.fixture
def app(world):
    app = world.app("shop")
    for number in range(3):
        world.push(app, f"2.{number}", f"{number:064x}")
        Version.objects.filter(tag=f"2.{number}").update(pushed_at=now() - timedelta(days=10 - number))
    return app


@pytest.fixture
def ask(world, app):
    def client(name):
        api = APIClient()
        api.force_authenticate(getattr(world, name))
        return api

    return client


def test_rules_are_read_changed_in_part_and_tried_without_being_kept(ask):
    alice = ask("alice")
    assert alice.get(AT).json()["is_on"] is False
    tried = alice.post(f"{AT}preview/", {"is_on": True, "keep_last": 1}).json()
    assert (tried["going"], tried["rules"]["keep_last"]) == (2, 1)
    assert [(one["tag"], one["goes"]) for one in tried["versions"]] == [("2.2", False), ("2.1", True), ("2.0", True)]
    assert tried["versions"][0]["reasons"] == [{"code": "last", "words": "one of the newest 1"}]
    assert alice.get(f"{AT}preview/").json()["going"] == 0
    changed = alice.patch(AT, {"is_on": True, "keep_last": 2, "keep_tags": "2.0, v*"})
    assert (changed.status_code, changed.json()["keep_tags"]) == (200, "2.0 v*")
    assert alice.patch(AT, {"keep_last": 1}).json()["is_on"] is True
    assert alice.get(f"{AT}preview/").json()["going"] == 1


def test_the_rules_are_applied_when_asked(ask):
    alice = ask("alice")
    alice.patch(AT, {"is_on": True, "keep_last": 1})
    answer = alice.post(f"{AT}apply/")
    assert (answer.status_code, answer.json()) == (202, {"versions": 2})
    assert Version.objects.get(deleting_at=None).tag == "2.2"


@pytest.mark.parametrize("body", [{"keep_last": 0}, {"keep_days": 9999}, {"keep_tags": "$(x)"}, {"is_on": "perhaps"}])
def test_rules_that_can_not_be_are_refused(ask, body):
    answer = ask("alice").patch(AT, body)
    assert answer.status_code == 400
    assert answer.json()["code"] in {"retention.invalid", "request.invalid"}


def test_who_may_look_and_who_may_change(ask):
    for name, looks, changes in (("bob", 200, 403), ("vera", 200, 403), ("charlie", 404, 404)):
        api = ask(name)
        assert api.get(AT).status_code == looks
        assert api.get(f"{AT}preview/").status_code == looks
        assert api.post(f"{AT}preview/", {"keep_last": 1}).status_code == looks
        assert api.patch(AT, {"keep_last": 1}).status_code == changes
        assert api.post(f"{AT}apply/").status_code == changes


def test_a_tenants_storage_stands_in_its_quota(ask, world):
    Quota.objects.filter(tenant=world.acme).update(storage_bytes_used=5, storage_mb=7)
    quota = ask("vera").get("/api/v1/tenants/acme/").json()["quota"]
    assert (quota["storage_bytes_used"], quota["storage_mb"]) == (5, 7)
