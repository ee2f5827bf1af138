"""The platform's own images: what is written of each, what their Dockerfiles keep to, and an app from one."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import httpx
import pytest

from apps.core.clock import now
from apps.deployments.models import App, Release
from apps.deployments.services.apps import app_create
from apps.deployments.services.base_images import BaseImageInvalid, app_from_base
from apps.deployments.services.imports import app_import, imported_deploy
from apps.registry import foreign
from apps.registry.base_images import BaseEnvInvalid, BaseImageMissing, base_image, base_images, directory, env_for
from apps.registry.building import repository_ready
from apps.registry.importing import import_work
from apps.registry.models import Import, Repository
from apps.registry.services.tokens import Access, granted_to
from apps.registry.services.versions import version_pushed
from apps.registry.tests.registry import Shop
from apps.tenants.services.tenants import SlugInvalid

NAMES = ("mariadb", "nginx", "node", "openjdk", "postgresql", "python", "redis")


def test_there_are_those() -> None:
    assert tuple(base_images()) == NAMES
    with pytest.raises(BaseImageMissing):
        base_image("nothing")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_written_as_it_should_be(name: str) -> None:
    image = base_image(name)
    text = (directory() / name / "Dockerfile").read_text()
    assert image.purpose["en"]
    assert image.purpose["zh"]
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE), "not root"
    assert re.search(rf"^EXPOSE {image.port}$", text, re.MULTILINE)
    assert re.search(rf"^STOPSIGNAL {image.stop_signal}$", text, re.MULTILINE)
    assert "ADD http" not in text
    assert not re.search(r"(?i)^(ENV|ARG) .*(password|secret)", text, re.MULTILINE), "no default password"
    if image.app:
        assert "\nHEALTHCHECK " in text
        assert 'ENTRYPOINT ["/bin/sh", "/entrypoint.sh"]' in text
    for one in image.env:
        assert one.kind in ("password", "name")
        assert one.words["en"]
        assert one.words["zh"]
        assert bool(one.default) == (one.kind == "name")


@pytest.mark.parametrize("name", [name for name in NAMES if base_images()[name].app])
@pytest.mark.parametrize("value", [None, "", "short", "long-enough'; DROP", 'long-enough"\n', "$(id)-long-enough"])
def test_an_entrypoint_refuses_a_password_that_is_none(name: str, value: str | None, tmp_path: Any) -> None:
    """The real script, up to where it would begin: with Debian's shell, and nothing that it could start."""
    image = base_image(name)
    secrets = [one.name for one in image.env if one.kind == "password"]
    text = (directory() / name / "entrypoint.sh").read_text()
    script = text.replace("/usr/local/lib/berth/refuse.sh", str(directory() / "debian" / "refuse.sh"))
    env = {"PATH": str(tmp_path)} | {one: value for one in secrets if value is not None}
    done = subprocess.run(["/bin/sh", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    if secrets:
        assert done.returncode == 78
        assert done.stderr.startswith(secrets[0])
        assert done.stderr.count("\n") == 1
        assert not value or value == "short" or value not in done.stderr
    else:
        assert done.returncode != 78


def test_variables_are_given_made_or_refused() -> None:
    postgresql = base_image("postgresql")
    hidden, readable, made = env_for(postgresql, {})
    assert set(hidden) == set(made) == {"POSTGRES_PASSWORD"}
    assert len(made["POSTGRES_PASSWORD"]) > 24
    assert readable == {"POSTGRES_DB": "app"}
    hidden, readable, made = env_for(postgresql, {"POSTGRES_PASSWORD": "a-good-long-one", "POSTGRES_DB": "orders"})
    assert (hidden, readable, made) == ({"POSTGRES_PASSWORD": "a-good-long-one"}, {"POSTGRES_DB": "orders"}, {})
    for wrong in (
        {"POSTGRES_PASSWORD": "short"},
        {"POSTGRES_PASSWORD": "long-enough'--"},
        {"POSTGRES_DB": "a b"},
        {"POSTGRES_DB": "x; DROP"},
        {"PGDATA": "/etc"},
    ):
        with pytest.raises(BaseEnvInvalid):
            env_for(postgresql, wrong)


@pytest.fixture
def pushed(world: Any, token_key: Any, monkeypatch: pytest.MonkeyPatch, ours: Any) -> Any:
    """base-redis:7.0 in our registry, whose answers come out of memory."""
    held = Shop()
    digest = held.image(b"redis", tag="7.0")
    repository_ready(base_image("redis"))
    version_pushed(
        repository="base-redis", tag="7.0", digest=digest, media_type="", pushed_by="berth:base-images", pushed_at=now()
    )

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"].startswith("Bearer ")
        got = held(httpx.Request(request.method, str(request.url).replace("base-redis", "shop")))
        media_type = {"Content-Type": got.headers.get("Content-Type", "")}
        return httpx.Response(got.status_code, headers=media_type, stream=httpx.ByteStream(got.content))

    monkeypatch.setattr(
        foreign, "open_client", lambda s: httpx.Client(base_url="https://ours", transport=httpx.MockTransport(answer))
    )
    return digest


@pytest.mark.django_db
def test_redis_is_deployed_by_its_name(world: Any, pushed: str, nudges: Any) -> None:
    world.host()
    made = app_from_base(tenant=world.acme, slug="cache", image="redis", version="", env={}, by=world.bob)
    password = made.generated["REDIS_PASSWORD"]
    import_work(made.copy.pk)
    assert imported_deploy(10) == 1
    release = Release.objects.get(app__slug="cache")
    assert (release.version.tag, release.version.digest) == ("7.0", pushed)
    assert (release.container_port, release.health_path, release.memory_mb) == (6379, "", 128)
    assert release.env == {"REDIS_PASSWORD": password}
    assert release.env_readable == []
    assert Import.objects.get().deploy_with == {}, "the password stands in the release only"


@pytest.mark.django_db
def test_what_can_t_be_run_leaves_nothing(world: Any, pushed: str) -> None:
    for image, version in (("python", ""), ("redis", "1.0"), ("nginx", "")):
        with pytest.raises(BaseImageInvalid):
            app_from_base(tenant=world.acme, slug="cache", image=image, version=version, env={}, by=world.alice)
    assert not App.objects.exists()


@pytest.mark.django_db
def test_everybody_pulls_them_and_nobody_pushes(world: Any, pushed: str) -> None:
    repository = Repository.objects.get(name="base-redis")
    assert repository.is_public
    for who in (world.alice, world.charlie):
        granted = granted_to(who, [Access("base-redis", ("pull", "push", "delete"))])
        assert not any(set(one.actions) - {"pull"} for one in granted)


@pytest.mark.django_db
def test_of_our_registry_only_what_is_public_is_copied(world: Any, pushed: str, settings: Any) -> None:
    world.app("shop")
    app = app_create(tenant=world.rival, slug="mine", by=world.charlie)
    made = app_import(app=app, source=f"{settings.REGISTRY_PUBLIC}/shop:1.0", tag="", by=world.charlie)
    import_work(made.pk)
    made.refresh_from_db()
    assert made.code == "imports.source_not_found"


@pytest.mark.django_db
def test_no_app_may_look_like_one_of_them(world: Any) -> None:
    with pytest.raises(SlugInvalid):
        app_create(tenant=world.acme, slug="base-redis", by=world.alice)
