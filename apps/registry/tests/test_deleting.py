"""A repository that is being deleted: who may still ask for it, and what is taken out of the registry."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import httpx
import pytest

from apps.core.clock import now
from apps.registry import client
from apps.registry.client import RegistryUnavailable, RepositoryUnreadable, purge
from apps.registry.models import Repository, Version
from apps.registry.reconcile import repository_purge
from apps.registry.selectors import repositories_to_list
from apps.registry.services.manifests import EARLIER
from apps.registry.services.tokens import LEEWAY_S, TOKEN_S, Access, granted_to
from apps.registry.services.versions import repository_close, repository_erase

ASKED = [Access("shop", ("pull", "push"))]


def _digest(name):
    return "sha256:" + name[0] * 64


@pytest.fixture
def app(world, token_key):
    return world.app("shop")


class FakeRegistry:
    """Manifests, tags and blobs of one repository, as distribution 2.8 answers for them."""

    def __init__(self):
        self.manifests = {}
        self.tags = {}
        self.blobs = set()
        self.deletes = True
        self.requests = []

    def __call__(self, request):
        self.requests.append((request.method, request.url.path))
        what, _, name = request.url.path.removeprefix("/v2/shop/").partition("/")
        if what == "tags":
            return httpx.Response(200, json={"name": "shop", "tags": sorted(self.tags) or None})
        if request.method == "DELETE" and not self.deletes:
            return httpx.Response(405)
        if what == "blobs":
            found = name in self.blobs
            self.blobs.discard(name)
            return httpx.Response(202 if found else 404)
        digest = self.tags.get(name, name)
        if digest not in self.manifests:
            return httpx.Response(404)
        if request.method == "DELETE":
            del self.manifests[digest]
            self.tags = {tag: one for tag, one in self.tags.items() if one != digest}
            return httpx.Response(202)
        headers = {"Docker-Content-Digest": digest}
        return httpx.Response(200, content=self.manifests[digest], headers=headers)

    def image(self, name, *blobs, tag=""):
        self.blobs |= {_digest(one) for one in blobs}
        layers = [{"digest": _digest(one)} for one in blobs[1:]]
        self.manifests[_digest(name)] = json.dumps({"config": {"digest": _digest(blobs[0])}, "layers": layers})
        if tag:
            self.tags[tag] = _digest(name)

    @property
    def left(self):
        return [*self.manifests, *self.tags, *self.blobs]


@pytest.fixture
def registry(monkeypatch):
    fake = FakeRegistry()
    real = httpx.Client
    monkeypatch.setattr(
        client.httpx,
        "Client",
        lambda **values: real(**{**values, "verify": False}, transport=httpx.MockTransport(fake)),
    )
    return fake


def test_what_tags_name_what_they_named_once_and_what_an_index_names_is_all_purged(registry):
    registry.image("a", "1", "2", tag="1.0")
    registry.image("b", "1", "3")
    registry.image("c", "4", "5")
    registry.manifests[_digest("d")] = json.dumps({"manifests": [{"digest": _digest("c")}, {"digest": "../../evil"}]})
    registry.tags["multi"] = _digest("d")
    assert purge("shop", [_digest("b")], token="t") is True
    assert registry.left == []
    assert not any("evil" in path for _, path in registry.requests)


@pytest.mark.parametrize("body", ["", "[]", "nonsense", '{"layers": 3, "manifests": [1], "config": {}}', "[" * 100_000])
def test_a_manifest_that_makes_no_sense_is_deleted_all_the_same(registry, body):
    registry.manifests[_digest("a")] = body
    registry.tags["1.0"] = _digest("a")
    assert purge("shop", [], token="t") is True
    assert registry.left == []


def test_a_tag_that_names_nothing_does_not_keep_the_repository(registry):
    registry.tags["broken"] = _digest("f")
    assert purge("shop", [], token="t") is True


def test_what_is_left_when_the_time_is_over_is_the_next_calls(registry, monkeypatch):
    registry.image("a", "1", "2", tag="1.0")
    monkeypatch.setattr(client, "BUDGET_S", 0.0)
    assert purge("shop", [_digest("a")], token="t") is False
    monkeypatch.setattr(client, "BUDGET_S", 30.0)
    assert purge("shop", [_digest("a")], token="t") is True
    assert registry.left == []


def test_a_registry_that_does_not_delete_is_told_of(registry):
    registry.image("a", "1", tag="1.0")
    registry.deletes = False
    with pytest.raises(RepositoryUnreadable, match=r"storage\.delete\.enabled"):
        purge("shop", [], token="t")


def test_a_registry_that_is_away_is_told_of(settings):
    settings.REGISTRY_URL = "http://127.0.0.1:9"
    with pytest.raises(RegistryUnavailable):
        purge("shop", [], token="t")


def test_nothing_is_purged_before_the_last_token_for_it_has_ended(world, app, registry):
    registry.image("a", "1", tag="1.0")
    assert granted_to(world.bob, ASKED) == ASKED
    until = Repository.objects.get().tokens_until
    assert until >= now() + timedelta(seconds=TOKEN_S + LEEWAY_S)
    repository_close(name="shop")
    assert repository_purge("shop") == "the last sign-in to its repository to end"
    assert registry.left
    Repository.objects.update(tokens_until=now() - timedelta(seconds=1))
    assert repository_purge("shop") == ""
    assert registry.left == []


def test_nobody_gets_a_token_for_a_repository_that_is_being_deleted(world, app):
    assert granted_to(world.alice, ASKED) == ASKED
    repository_close(name="shop")
    for who in (world.alice, world.bob, world.vera):
        assert granted_to(who, ASKED) == []


def test_a_token_asked_for_while_the_deletion_begins_is_not_given_unnoted(world, app, monkeypatch):
    """The row was read before; the deletion came between."""
    stale = Repository.objects.get()
    repository_close(name="shop")
    monkeypatch.setattr("apps.registry.selectors.repository_named", lambda name: stale)
    assert granted_to(world.alice, ASKED) == []


def test_until_when_tokens_are_about_is_written_once_a_minute(world, app, django_assert_num_queries):
    granted_to(world.bob, ASKED)
    noted = Repository.objects.get().tokens_until
    for _ in range(3):
        assert granted_to(world.bob, ASKED) == ASKED
    assert Repository.objects.get().tokens_until == noted
    Repository.objects.update(tokens_until=now() + timedelta(seconds=TOKEN_S + LEEWAY_S - 1))
    granted_to(world.bob, ASKED)
    assert Repository.objects.get().tokens_until > now() + timedelta(seconds=TOKEN_S + LEEWAY_S)


def test_a_late_word_of_a_push_to_an_earlier_repository_of_the_name_makes_no_version(world, app):
    pushed = partial(world.push, app)
    repository_close(name="shop")
    assert pushed("1.0") is None
    repository_erase(name="shop")
    later = Repository.objects.create(tenant=world.rival, name="shop")
    Repository.objects.filter(pk=later.pk).update(created_at=now() + 2 * EARLIER)
    assert pushed("1.0") is None
    assert not Version.objects.exists()


def test_a_repository_that_is_being_deleted_is_not_listed(world, app):
    repository_close(name="shop")
    assert not repositories_to_list(10)
