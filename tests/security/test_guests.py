"""Somebody from outside with a grant on one app: pushing by hand, as far as the grant goes."""

from __future__ import annotations

import pytest
from django.test import Client
from guardian.shortcuts import assign_perm

from apps.registry.models import Upload
from portal.web.tests.pages import words

PAGE, UPLOADS = "/apps/shop/push", "/api/v1/apps/shop/uploads/?tag=1.0"


@pytest.fixture
def guest(world, tmp_path, settings):
    settings.UPLOAD_DIRECTORY = str(tmp_path / "spool")
    app = world.app("shop")

    def with_grants(*actions):
        for action in actions:
            assign_perm(action, world.charlie, app)
        client = Client()
        client.force_login(world.charlie, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return with_grants


def _put(client):
    return client.generic("PUT", UPLOADS, b"archive", content_type="application/x-tar")


def test_who_may_only_look_is_told_no_names_and_sends_nothing(guest):
    client = guest("view_app")
    text = words(client.get(PAGE).content)
    assert "does not include pushing" in text
    assert "Ask one of them" not in text
    assert (_put(client).status_code, Upload.objects.count()) == (403, 0)


def test_who_may_push_may_send_an_archive(guest):
    client = guest("view_app", "push_app")
    assert b'id="upload-form"' in client.get(PAGE).content
    assert _put(client).status_code == 202
    assert Upload.objects.get().pushed_by == "charlie"
