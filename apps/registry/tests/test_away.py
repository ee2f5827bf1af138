"""A registry that is there and does not answer: it hangs, it is stopping, or its proxy answers for it."""

from __future__ import annotations

import httpx
import pytest

from apps.core.clock import now
from apps.registry.describing import manifest_describe
from apps.registry.models import Manifest, Repository
from apps.registry.reconcile import repositories_list
from apps.registry.services.versions import version_pushed


def _hang(request):
    raise httpx.ReadTimeout("nothing came", request=request)


def _cut(request):
    raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)


@pytest.fixture(params=["hangs", "stops", "proxy"])
def away(request, shop):
    if request.param == "proxy":
        shop.status, shop.is_away = 502, True
    else:
        shop.before = {"hangs": _hang, "stops": _cut}[request.param]
    return shop


def _back(shop):
    shop.status, shop.before, shop.is_away = None, None, False


def test_what_was_not_answered_is_no_listing(away):
    assert repositories_list() == 0
    assert Repository.objects.get().listed_at is None, "it is the first again when the registry is back"
    _back(away)
    assert repositories_list() == 1


def test_manifests_are_read_seconds_after_the_registry_is_back_however_long_it_was_away(away):
    version_pushed(
        repository="shop", tag="1.0", digest=away.image(b"x"), media_type="", pushed_by="bob", pushed_at=now()
    )
    (manifest,) = Manifest.objects.all()
    for _ in range(10):
        Manifest.objects.update(describe_after=None)
        with pytest.raises(Exception, match="did not answer"):
            manifest_describe(manifest.pk)
    manifest.refresh_from_db()
    assert manifest.describe_failures == 0
    assert (manifest.describe_after - now()).total_seconds() < 10
    _back(away)
    Manifest.objects.update(describe_after=None)
    assert manifest_describe(manifest.pk) is True


def test_one_repository_that_can_not_be_read_keeps_no_other_waiting(shop, world):
    world.app("blog")

    def faulty(request):
        if "/shop/" in request.url.path:
            _hang(request)

    shop.before = faulty
    assert repositories_list() == 1
    assert not Repository.objects.filter(listed_at=None).exists()
