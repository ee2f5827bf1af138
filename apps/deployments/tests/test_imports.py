"""Imports: an image of another registry becomes a version here, or it is said why not; whatever that registry says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection

from apps.core.clock import after, now
from apps.core.errors import Denied
from apps.core.models import Event
from apps.deployments.models import Rollout
from apps.deployments.services.imports import app_import, imported_deploy
from apps.deployments.services.placement import CONTENDED_S, PlacementContended
from apps.deployments.tests.imported import Ours, run, signed_up
from apps.registry import importing
from apps.registry.importing import import_work
from apps.registry.models import Import, Version
from apps.registry.references import Reference, ReferenceInvalid, host_parsed, reference_parsed
from apps.registry.services.external import ExternalInvalid, ExternalTaken, external_change, external_create
from apps.registry.services.imports import TagInvalid, TooManyImports, imports_expire, imports_to_work_on
from apps.registry.services.versions import version_pushed
from apps.registry.tests.registry import digest_of, entry
from apps.registry.tests.upstream import Upstream
from apps.registry.trying import external_try
from apps.tenants.services.tenants import QuotaExceeded

pytestmark = pytest.mark.django_db
Status = Import.Status


@pytest.fixture
def shop(world: Any, token_key: Any) -> Any:
    return world.app("shop")


def test_an_image_becomes_a_version_by_the_digest_that_it_has_there(
    shop: Any, world: Any, there: Upstream, ours: Ours
) -> None:
    digest = there.held.image(b"one", b"two" * 100_000, tag="1.0")
    made = run(shop, world, there)
    assert (made.status, made.digest, made.source_digest) == (Status.DONE, digest, digest)
    assert made.copied_bytes == made.total_bytes == sum(map(len, there.held.blobs.values()))
    assert ours.blobs == there.held.blobs
    assert digest_of(ours.manifests["1.0"]) == digest
    version = Version.objects.get(repository__name="shop", tag="1.0", is_current=True)
    assert (version.digest, version.pushed_by) == (digest, "alice")
    assert all(not given for _, given in there.seen), "nobody's password"


def test_of_an_index_the_hosts_platform_is_taken(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    world.host(os="linux", architecture="amd64")
    held = there.held
    mine, other = held.image(b"amd64"), held.image(b"arm64")
    odd = held.image(b"attestation")
    held.index(
        entry(other, "linux", "arm64"), entry(mine, "linux", "amd64"), entry(odd, "unknown", "unknown"), tag="1.0"
    )
    made = run(shop, world, there, tag="copy")
    assert (made.status, made.digest) == (Status.DONE, mine)
    assert digest_of(b"arm64") not in ours.blobs
    assert set(ours.manifests) == {"copy"}


def test_of_an_index_several_platforms_become_an_index(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    world.host(os="linux", architecture="amd64")
    world.host(os="linux", architecture="arm64")
    held = there.held
    one, two, three = held.image(b"1"), held.image(b"2"), held.image(b"3")
    held.index(
        *(entry(digest, "linux", kind) for digest, kind in ((one, "amd64"), (two, "arm64"), (three, "s390x"))),
        tag="1.0",
    )
    made = run(shop, world, there)
    assert made.status == Status.DONE
    assert set(ours.manifests) == {one, two, "1.0"}
    index = json.loads(ours.manifests["1.0"])
    assert [each["digest"] for each in index["manifests"]] == [one, two]
    assert digest_of(ours.manifests["1.0"]) == made.digest


def test_an_index_without_the_hosts_platform_is_refused(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    world.host(os="linux", architecture="amd64")
    there.held.index(entry(there.held.image(b"1"), "linux", "s390x"), tag="1.0")
    made = run(shop, world, there)
    assert (made.status, made.code) == (Status.FAILED, "imports.source_invalid")
    assert "linux/amd64" in made.detail


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_the_tenant_s_credential_opens_it(shop: Any, world: Any, there: Upstream, ours: Ours, kind: str) -> None:
    there.signs_in = kind
    digest = there.held.image(b"one", tag="1.0")
    assert run(shop, world, there).code == "imports.source_denied"
    signed_up(world, there)
    assert run(shop, world, there).digest == digest
    assert set(there.scopes) <= {"repository:team/app:pull"}, "what is asked for is ours to say"


def test_another_tenant_s_credential_is_not_used(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.signs_in = "basic"
    there.held.image(b"one", tag="1.0")
    external_create(
        tenant=world.rival, name="there", host=there.place, username="robot", password="s3cret", by=world.charlie
    )
    assert run(shop, world, there).code == "imports.source_denied"
    assert not any(given for _, given in there.seen)


def test_a_wrong_password_is_told_of_and_kept_from_events(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.signs_in = "bearer"
    signed_up(world, there, "wr0ng-one")
    assert external_try(tenant=world.acme, name="there", by=world.alice).test_code == "imports.source_denied"
    external_change(tenant=world.acme, name="there", username=None, password="s3cret", by=world.alice)
    tried = external_try(tenant=world.acme, name="there", by=world.alice)
    assert tried.test_code == ""
    assert tried.tested_at is not None
    kept = json.dumps(list(Event.objects.values("message", "detail")), default=str)
    assert "wr0ng" not in kept
    assert "s3cret" not in kept
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM registry_externalregistry")
        assert "s3cret" not in cursor.fetchone()[0]


def test_what_was_copied_is_not_copied_again(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    """A registry that is busy is asked again later, for what is missing, and for what its tag named at first."""
    held = there.held
    first = held.image(b"one", b"two", tag="1.0")
    blob = f"/v2/team/app/blobs/{digest_of(b'two')}"
    there.lies[blob] = lambda handler: handler.send(503)
    made = run(shop, world, there)
    assert (made.status, made.attempts) == (Status.WAITING, 1)
    assert made.retry_at is not None
    assert made.retry_at > now()
    assert not list(imports_to_work_on(10)), "not before its time"
    held.image(b"newer", tag="1.0")
    there.lies.clear()
    Import.objects.update(retry_at=now())
    assert [one.pk for one in imports_to_work_on(10)] == [made.pk]
    import_work(made.pk)
    made.refresh_from_db()
    assert (made.status, made.digest) == (Status.DONE, first)
    assert there.asked_for(f"/v2/team/app/blobs/{digest_of(b'one')}") == 1
    assert there.asked_for(blob) == 2


def test_what_never_answers_ends(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.held.image(b"one", tag="1.0")
    ours.down = True
    made = run(shop, world, there)
    for _ in range(5):
        Import.objects.update(retry_at=None)
        import_work(made.pk)
    made.refresh_from_db()
    assert (made.status, made.code) == (Status.FAILED, "registry.unavailable")


def test_a_deadline_ends_it_and_its_worker(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.held.image(b"one", tag="1.0")
    made = app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.alice)
    Import.objects.update(deadline_at=after(-1))
    import_work(made.pk)
    assert not there.seen
    assert imports_expire() == 1
    made.refresh_from_db()
    assert (made.status, made.code) == (Status.EXPIRED, "imports.expired")


def test_a_worker_that_stops_leaves_the_rest_to_the_next(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.held.image(b"one", tag="1.0")
    made = app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.alice)
    import_work(made.pk, stopping=lambda: True)
    made.refresh_from_db()
    assert made.status == Status.COPYING
    assert not ours.manifests
    import_work(made.pk)
    made.refresh_from_db()
    assert made.status == Status.DONE


def test_the_quota_and_the_largest_image_hold(
    shop: Any, world: Any, there: Upstream, ours: Ours, settings: Any
) -> None:
    there.held.image(b"x" * (2 << 20), tag="1.0")
    settings.IMPORT_MAX_MB = 1
    assert run(shop, world, there).code == "imports.source_invalid"
    settings.IMPORT_MAX_MB = 10
    world.acme.quota.storage_mb = 1
    world.acme.quota.save()
    assert run(shop, world, there).code == "quota.exceeded"
    world.acme.quota.storage_bytes_used = 2 << 20
    world.acme.quota.save()
    with pytest.raises(QuotaExceeded):
        app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.alice)


def test_whoever_may_not_push_any_more_copies_nothing(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.held.image(b"one", tag="1.0")
    made = app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.bob)
    world.bob.is_active = False
    world.bob.save()
    import_work(made.pk)
    made.refresh_from_db()
    assert (made.code, ours.blobs) == ("imports.not_allowed", {})


def test_it_is_refused_before_anything_is_asked(shop: Any, world: Any, there: Upstream, settings: Any) -> None:
    for by in (world.vera, world.charlie):
        with pytest.raises(Denied):
            app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=by)
    with pytest.raises(ReferenceInvalid):
        app_import(app=shop, source="team/app:1.0", tag="", by=world.alice)
    with pytest.raises(TagInvalid):
        app_import(app=shop, source=f"{there.place}/team/app@sha256:{'a' * 64}", tag="", by=world.alice)
    settings.IMPORTS_PER_TENANT = 1
    app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.alice)
    with pytest.raises(TooManyImports):
        app_import(app=shop, source=f"{there.place}/team/app:1.0", tag="", by=world.alice)


def test_one_that_is_to_be_deployed_is(shop: Any, world: Any, there: Upstream, ours: Ours, nudges: Any) -> None:
    world.host()
    there.held.image(b"one", tag="1.0")
    assert run(shop, world, there).status == Status.DONE
    assert imported_deploy(10) == 0, "nobody asked for it"
    assert run(shop, world, there, deploy=True).status == Status.DONE
    assert imported_deploy(10) == 1
    assert imported_deploy(10) == 0
    assert Rollout.objects.get().target.release.version.tag == "1.0"


def test_one_whose_tag_was_pushed_anew_is_not_deployed(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    world.host()
    there.held.image(b"one", tag="1.0")
    run(shop, world, there, deploy=True)
    version_pushed(
        repository="shop", tag="1.0", digest="sha256:" + "e" * 64, media_type="", pushed_by="bob", pushed_at=after(5)
    )
    assert imported_deploy(10) == 0
    assert not Rollout.objects.exists()


def test_a_version_is_as_old_as_its_tag_and_not_as_what_was_noted_of_it(
    shop: Any, world: Any, there: Upstream, ours: Ours, monkeypatch: Any
) -> None:
    """Who pushes the tag between the two is newer, and stays."""
    there.held.image(b"one", tag="1.0")
    done = importing.import_done

    def late(**given: Any) -> Any:
        version_pushed(
            repository="shop", tag="1.0", digest="sha256:" + "e" * 64, media_type="", pushed_by="bob", pushed_at=now()
        )
        return done(**given)

    monkeypatch.setattr(importing, "import_done", late)
    run(shop, world, there)
    assert Version.objects.get(repository__name="shop", tag="1.0", is_current=True).digest == "sha256:" + "e" * 64


def test_one_that_others_placed_beside_is_deployed_later(
    shop: Any, world: Any, there: Upstream, ours: Ours, monkeypatch: Any
) -> None:
    world.host()
    there.held.image(b"one", tag="1.0")
    run(shop, world, there, deploy=True)

    def contended(**_: Any) -> None:
        raise PlacementContended("Others placed at the same time.")

    with monkeypatch.context() as busy:
        busy.setattr("apps.deployments.services.imports.rollout_start", contended)
        assert imported_deploy(10) == 0
        assert Import.objects.get().deployed_at is None
    assert imported_deploy(10) == 1


def test_one_that_stays_contended_is_given_up(
    shop: Any, world: Any, there: Upstream, ours: Ours, monkeypatch: Any
) -> None:
    there.held.image(b"one", tag="1.0")
    run(shop, world, there, deploy=True)

    def contended(**_: Any) -> None:
        raise PlacementContended("Others placed at the same time.")

    monkeypatch.setattr("apps.deployments.services.imports.rollout_start", contended)
    Import.objects.update(status_since=after(-CONTENDED_S - 1))
    assert imported_deploy(10) == 0
    assert Import.objects.get().deployed_at is not None


def test_a_refused_rollout_leaves_its_reason(shop: Any, world: Any, there: Upstream, ours: Ours) -> None:
    there.held.image(b"one", tag="1.0")
    run(shop, world, there, deploy=True)
    assert imported_deploy(10) == 0
    assert Event.objects.get(code="rollout.refused").detail["cause"] == "placement.no_host"


def test_the_operators_cache_is_asked_where_no_password_is_needed(
    shop: Any, world: Any, there: Upstream, ours: Ours, settings: Any
) -> None:
    settings.GUARD_ALLOW = []
    settings.REGISTRY_CACHE_OF, settings.REGISTRY_CACHE_URL = "upstream.example", f"http://{there.place}"
    there.held.image(b"one", tag="1.0")
    made = app_import(app=shop, source="upstream.example/team/app:1.0", tag="", by=world.alice)
    import_work(made.pk)
    made.refresh_from_db()
    assert made.status == Status.DONE
    seen = len(there.seen)
    external_create(
        tenant=world.acme, name="up", host="upstream.example", username="robot", password="s3cret", by=world.alice
    )
    made = app_import(app=shop, source="upstream.example/team/app:1.0", tag="", by=world.alice)
    import_work(made.pk)
    assert len(there.seen) == seen, "what a password opens is not for a cache that all tenants share"


def test_registries_are_the_owners_and_admins(world: Any) -> None:
    values = {"tenant": world.acme, "name": "there", "host": "registry.example.com", "username": "u", "password": "p"}
    for by in (world.bob, world.vera, world.charlie):
        with pytest.raises(Denied):
            external_create(**values, by=by)
    external_create(**values, by=world.alice)
    with pytest.raises(ExternalTaken):
        external_create(**{**values, "name": "again"}, by=world.alice)
    for wrong in ({"username": "a:b"}, {"username": ""}, {"password": "a\nb"}, {"password": ""}):
        with pytest.raises(ExternalInvalid):
            external_create(**{**values, "name": "other", "host": "other.example", **wrong}, by=world.alice)


def test_references_are_read_strictly() -> None:
    assert reference_parsed("docker.io/redis:7") == Reference("docker.io", "library/redis", "7")
    assert reference_parsed("index.docker.io/redis").api_host == "registry-1.docker.io"
    digest = "sha256:" + "a" * 64
    assert reference_parsed(f"r.example:5000/a/b_c:1@{digest}") == Reference("r.example:5000", "a/b_c", "1", digest)
    for wrong in (
        *(
            "",
            "redis",
            "team/app:1",
            "https://r.example/a",
            "r.example/",
            "r.example/A",
            "r.example/../a",
            "r.example/a/",
        ),
        *("r.example/a:b:c", "r.example:99999/a", "r.example:0/a", "me@r.example/a", "r.example/a?b", "r.example/a#b"),
        *("[::1]/a", "r.example/a%2fb", "r.example/a b", "r.example\\a/b", "-r.example/a", "r..example/a"),
        *("r.example/a@sha256:12", "r.example/a@md5:" + "a" * 64, "r.example/" + "a" * 300, "r" * 300 + ".example/a"),
        "r.example/a:" + "t" * 129,
    ):
        with pytest.raises(ReferenceInvalid):
            reference_parsed(wrong)
    with pytest.raises(ReferenceInvalid):
        host_parsed("registry.example.com/path")
