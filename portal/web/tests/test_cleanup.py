"""The clean-up page: what goes, why the rest stays, trying, keeping, and doing it now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.core.clock import now
from apps.deployments.models import Retention
from apps.registry.models import Version
from apps.tenants.models import Quota
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import words

PAGE = "/apps/shop/cleanup"
RULES = {"is_on": "on", "keep_last": "1", "keep_days": "0", "keep_tags": "", "rollback_releases": "10"}


@pytest.fixture
def versions(world: Any, shop: Any) -> Any:
    for number in range(3):
        world.push(shop, f"2.{number}", f"{number:064x}")
    Version.objects.update(pushed_at=now() - timedelta(days=3))
    Version.objects.filter(tag="2.2").update(pushed_at=now() - timedelta(days=2))
    return shop


def left() -> set[str]:
    return set(Version.objects.filter(deleting_at=None).values_list("tag", flat=True))


def test_a_trial_shows_what_would_go_and_keeps_nothing(versions: Any, browser: Browser) -> None:
    text = words(browser("alice").post(PAGE, {**RULES, "try": "1"}).content)
    assert "What these rules would do 3 versions go" in text
    assert "2.2 2 days ago stays one of the newest 1" in text
    assert "2.1 3 days ago goes" in text
    assert not Retention.objects.exists()
    assert len(left()) == 4


def test_rules_are_kept_and_then_applied_when_somebody_asks(versions: Any, browser: Browser) -> None:
    alice = browser("alice")
    assert "The rules are kept" in words(alice.post(PAGE, RULES, follow=True).content)
    assert len(left()) == 4
    answer = alice.post(f"{PAGE}/now", follow=True)
    assert "3 versions are being deleted." in words(answer.content)
    assert left() == {"2.2"}


def test_without_rules_the_page_says_that_everything_stays(versions: Any, browser: Browser) -> None:
    text = words(browser("alice").get(PAGE).content)
    assert "0 versions go" in text
    assert "the clean-up of tags is off" in text
    assert "Clean up now" not in text


def test_a_viewer_sees_what_goes_and_no_form(versions: Any, browser: Browser) -> None:
    text = words(browser("vera").get(PAGE).content)
    assert "Owners and admins of the tenant set the rules." in text
    assert "Keep the rules" not in text


@pytest.mark.parametrize("wrong", [{"keep_last": "0"}, {"keep_last": ""}, {"keep_tags": "a/b"}, {"keep_days": "-1"}])
def test_what_can_not_be_a_rule_is_shown_where_it_was_typed(
    versions: Any, browser: Browser, wrong: dict[str, str]
) -> None:
    answer = browser("alice").post(PAGE, {**RULES, **wrong})
    assert answer.status_code == 400
    assert "Nothing was done." in words(answer.content)
    assert not Retention.objects.exists()


def test_the_bar_says_how_much_of_the_tenants_storage_is_left(versions: Any, world: Any, browser: Browser) -> None:
    Quota.objects.filter(tenant=world.acme).update(storage_mb=10, storage_bytes_used=4 * 1024 * 1024)
    answer = browser("vera").get(PAGE)
    assert '<progress max="100" value="40"' in answer.content.decode()
    assert "4.0\xa0MB of 10.0\xa0MB are used, 6.0\xa0MB are left." in answer.content.decode()
    Quota.objects.update(storage_bytes_used=11 * 1024 * 1024)
    assert "Nothing more can be pushed until versions are deleted." in words(browser("vera").get(PAGE).content)


def test_the_registry_page_of_a_tenant_says_how_much_is_left(versions: Any, world: Any, browser: Browser) -> None:
    Quota.objects.filter(tenant=world.acme).update(storage_mb=10, storage_bytes_used=4 * 1024 * 1024)
    for path in ("/registry/", "/registry/?tenant=acme"):
        assert '<progress max="100" value="40"' in browser("vera").get(path).content.decode()
