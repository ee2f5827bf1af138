"""The page of a tenant's robots."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from apps.core.clock import now
from apps.registry.models import Robot
from apps.registry.selectors import live_robot
from apps.registry.services.robots import robot_create
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import offences, unlabelled, words

PAGE = "/tenants/acme/robots"
NEW = {"name": "ci", "app": "shop", "actions": ["pull", "push"], "expires": "30"}


def test_an_owner_makes_a_robot_whose_secret_is_shown_once(shop: Any, browser: Browser, settings: Any) -> None:
    settings.REGISTRY_PUBLIC = "registry.example:5443"
    client = browser("alice")
    made = client.post(PAGE, NEW)
    assert made.status_code == 201
    assert "no-store" in made.headers["Cache-Control"]
    assert offences(made.content) == unlabelled(made.content) == []
    found = re.search(r"brr_[\w-]{43}", made.content.decode())
    assert found is not None
    assert "docker login registry.example:5443 -u robot/acme/ci" in words(made.content)
    robot = live_robot("robot/acme/ci", found[0])
    assert robot is not None
    assert (robot.actions, robot.repository.name, robot.created_by) == (["pull", "push"], "shop", "alice")
    assert timedelta(days=29) < robot.expires_at - now() < timedelta(days=31)
    listed = client.get(PAGE).content
    assert found[0] not in listed.decode()
    assert "robot/acme/ci" in words(listed)


def test_what_can_t_be_is_said_beside_its_field(shop: Any, world: Any, browser: Browser) -> None:
    robot_create(tenant=world.acme, by=world.alice, name="taken")
    client = browser("alice")
    for wrong, status in (
        ({**NEW, "name": "taken"}, 409),
        ({**NEW, "name": "No Such"}, 400),
        ({**NEW, "actions": []}, 400),
        ({**NEW, "actions": ["root"]}, 400),
        ({**NEW, "app": "theirs"}, 400),
    ):
        answer = client.post(PAGE, wrong)
        assert answer.status_code == status, wrong
        assert 'class="errors"' in answer.content.decode()
    assert Robot.objects.count() == 1


def test_a_new_secret_ends_the_old_one_and_deleting_ends_it_all(shop: Any, world: Any, browser: Browser) -> None:
    _robot, old = robot_create(tenant=world.acme, by=world.alice, name="ci")
    renewed = browser("alice").post(f"{PAGE}/ci/renew")
    found = re.search(r"brr_[\w-]{43}", renewed.content.decode())
    assert found is not None
    assert live_robot("robot/acme/ci", old) is None
    assert live_robot("robot/acme/ci", found[0]) is not None
    assert browser("alice").post(f"{PAGE}/ci/delete").status_code == 302
    assert live_robot("robot/acme/ci", found[0]) is None


def test_others_see_the_robots_and_why_they_can_t_make_any(shop: Any, world: Any, browser: Browser) -> None:
    robot_create(tenant=world.acme, by=world.alice, name="ci")
    for name in ("bob", "vera"):
        page = browser(name).get(PAGE).content
        assert "robot/acme/ci" in words(page)
        assert "Robots are made by its owners and admins: ask one of them." in words(page)
        assert b"<fieldset" not in page
        assert b"/robots/ci/" not in page
