"""The page about pushing: commands that are right for this app and this person, and the upload beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from apps.core.clock import now
from apps.registry.models import Repository, Upload
from apps.tenants.models import Membership
from portal.web import texts
from portal.web.dockerfiles import DOCKERFILES
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import words

PAGE, LIVE = "/apps/shop/push", "/apps/shop/push/live"


def upload(world: Any, **values: Any) -> Upload:
    repository = Repository.objects.get(name="shop")
    given = {"status": "receiving", "tag": "2.0", "pushed_by": "bob", **values}
    at = {"status_since": now(), "deadline_at": now() + timedelta(minutes=5), "spool": uuid4()}
    return Upload.objects.create(tenant=repository.tenant, repository=repository, by=world.bob, **at, **given)


def test_the_commands_are_this_app_s_and_this_person_s(shop: Any, browser: Browser, settings: Any) -> None:
    settings.REGISTRY_PUBLIC = "registry.example:5443"
    text = words(browser("bob").get(PAGE).content)
    for command in (
        "docker login registry.example:5443 -u bob",
        "docker push registry.example:5443/shop:1.0",
        "podman push registry.example:5443/shop:1.0",
        "buildah push registry.example:5443/shop:1.0",
        "skopeo copy --all docker://SOURCE docker://registry.example:5443/shop:1.0",
        "/api/v1/apps/shop/uploads?tag=1.0",
    ):
        assert command in text


def test_a_viewer_sees_why_not_and_whom_to_ask(shop: Any, world: Any, browser: Browser) -> None:
    page = browser("vera").get(PAGE).content
    text = words(page)
    assert "Your role in this tenant is viewer, which may pull but not push." in text
    assert "Ask one of them if you need to: alice." in text
    assert "docker pull localhost:5443/shop:1.0" in text
    for absent in (b"docker push", b'id="upload-form"', b"podman"):
        assert absent not in page
    assert "What is expected of an image" in text
    assert "bob" not in text, "a developer can't help"


def test_what_is_expected_is_what_the_release_says(shop: Any, world: Any, browser: Browser, loop: Any) -> None:
    from apps.deployments.services.releases import ReleaseSettings
    from apps.deployments.services.rollouts import rollout_start

    given = ReleaseSettings(container_port=9000, health_path="/well")
    rollout_start(app=shop, version="1.0", by=world.alice, settings_=given)
    loop.settle()
    text = words(browser("alice").get(PAGE).content)
    assert "which it also gets as PORT : 9000." in text
    assert "It answers /well with 200 to 399 within 60 seconds" in text


def test_uploads_show_how_far_they_are_and_why_they_failed(shop: Any, world: Any, browser: Browser) -> None:
    mib = 1 << 20
    upload(world, tag="sending", received_bytes=30 * mib, declared_bytes=60 * mib)
    upload(world, tag="pushing", status="pushing", pushed_bytes=5 * mib, image_bytes=20 * mib)
    upload(world, tag="bad", status="failed", code="uploads.no_image", detail="No <b>image</b> is in it.")
    for path in (PAGE, LIVE):
        page = browser("vera").get(path).content
        assert re.search(rb'max="60" value="30"', page)
        assert re.search(rb'max="20" value="5"', page)
        text = words(page)
        assert "No <b>image</b> is in it. uploads.no_image" in text
        for state in ("arriving", "being pushed", "refused"):
            assert state in text


def test_the_first_push_is_noticed_by_the_part_that_asks_for_itself(world: Any, browser: Browser) -> None:
    app = world.app("shop")
    page = browser("alice").get(PAGE).content
    assert b'hx-get="/apps/shop/push/live"' in page
    assert "Waiting for the first push" in words(browser("alice").get(LIVE).content)
    world.push(app, "7.7")
    text = words(browser("alice").get(LIVE).content)
    assert "7.7" in text
    assert "Waiting" not in text


def test_nothing_can_be_pushed_to_an_app_that_goes(shop: Any, world: Any, browser: Browser) -> None:
    type(shop).objects.update(deleting_at=now())
    page = browser("alice").get(PAGE).content
    assert b'id="upload-form"' not in page
    assert "The app is being deleted" in words(page)


def test_the_upload_form_knows_its_limit_and_has_a_token(shop: Any, browser: Browser, settings: Any) -> None:
    settings.UPLOAD_MAX_MB = 7
    page = browser("alice").get(PAGE).content.decode()
    form = page[page.index('id="upload-form"') :]
    form = form[: form.index("</form>")]
    assert f'data-most="{7 << 20}"' in form
    assert 'data-upload="/api/v1/apps/shop/uploads/"' in form
    assert "csrfmiddlewaretoken" in form
    assert "7 MiB at most" in page


def test_every_status_of_an_upload_has_words() -> None:
    assert set(texts.UPLOAD_STATUSES) == set(Upload.Status.values)


def test_answers_come_in_the_reader_s_language(shop: Any, browser: Browser) -> None:
    from portal.web.views.push import _ANSWERS

    assert set(_ANSWERS) <= set(texts.CODES)
    client = browser("alice")
    assert b"upload-words" not in client.get(PAGE).content
    client.post("/i18n/setlang/", {"language": "zh-hans", "next": "/"})
    page = client.get(PAGE).content.decode()
    assert all(f'data-code="{code}"' in page for code in _ANSWERS)


def test_the_helpers_are_those_who_still_may(shop: Any, world: Any, browser: Browser) -> None:
    Membership.objects.filter(user=world.bob).update(role="admin")
    type(world.alice).objects.filter(pk=world.alice.pk).update(is_active=False)
    assert "Ask one of them if you need to: bob." in words(browser("vera").get(PAGE).content)


@pytest.mark.parametrize("one", DOCKERFILES, ids=lambda one: one.key)
def test_a_dockerfile_does_what_is_expected(one: Any) -> None:
    text = one.text
    assert text.startswith("FROM ")
    assert "PORT" in text, "it listens where it is told to"
    assert re.search(r"^USER (?!root)|unprivileged", text, re.MULTILINE), "it is not root"
    for line in text.splitlines():
        if line.startswith("CMD") and "$PORT" in line:
            assert line.startswith("CMD exec "), "a shell would keep SIGTERM for itself"
    shell = shutil.which("sh")
    for line in re.findall(r"^(?:CMD|RUN) (?!\[)(.*(?:\\\n.*)*)", text, re.MULTILINE):
        subprocess.run([str(shell), "-n", "-c", line], check=True)
