"""Every string in both languages, and every code in words."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import translation

from apps.core.errors import BerthError
from apps.core.models import Event
from apps.deployments.models import Instance, Rollout
from apps.tenants.models import ApiToken, Role
from portal.web import texts
from portal.web.states import AppState
from portal.web.tests.conftest import Browser
from portal.web.tests.pages import words

PORTAL = Path(settings.ROOT) / "portal"
PO = PORTAL / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"


def _entries(po: Path) -> dict[str, str]:
    """msgid -> msgstr (the first where there are plurals) of a .po that stands one string a line."""
    text = re.sub(r'"\n"', "", po.read_text(encoding="utf-8"))
    found = re.findall(
        r'^msgid (".*")\n(?:msgid_plural ".*"\n)?msgstr(?:\[0\])? (".*")$',
        text,
        re.MULTILINE,
    )
    return {ast.literal_eval(source): ast.literal_eval(target) for source, target in found}


def test_every_string_is_translated(tmp_path: Path) -> None:
    """makemessages on a copy: no string that is new, changed, fuzzy, empty or no longer used."""
    copy = tmp_path / "portal"
    ignored = shutil.ignore_patterns("static", "tests", "__pycache__", "*.mo")
    shutil.copytree(PORTAL, copy, ignore=ignored)
    made = subprocess.run(
        [sys.executable, "-m", "django", "makemessages", "-l", "zh_Hans", "--no-location", "--no-wrap"],
        cwd=copy,
        # Without our settings, whose LOCALE_PATHS would lead back to the real files.
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    renewed = copy / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
    ours, theirs = _entries(PO), _entries(renewed)
    assert len(ours) > 200
    assert sorted(theirs) == sorted(ours)
    assert [source for source, target in theirs.items() if not target] == []
    assert "#, fuzzy" not in renewed.read_text(encoding="utf-8")
    assert "#~" not in renewed.read_text(encoding="utf-8")


def test_translations_keep_the_placeholders_and_the_markup() -> None:
    for source, target in _entries(PO).items():
        if source:
            assert sorted(re.findall(r"%\(\w+\)[sd]", source)) == sorted(re.findall(r"%\(\w+\)[sd]", target)), source
            assert sorted(re.findall(r"</?\w+", source)) == sorted(re.findall(r"</?\w+", target)), source


def test_every_status_has_words() -> None:
    assert set(texts.APP_STATES) == set(AppState)
    assert set(texts.INSTANCE_STATUSES) == set(Instance.Status.values)
    assert set(texts.ROLLOUT_STATUSES) == set(Rollout.Status.values)
    assert set(texts.EVENT_LEVELS) == set(Event.Level.values)
    assert set(texts.ROLES) == set(Role.values)
    assert set(texts.SCOPES) == set(ApiToken.Scope.values)


def _codes(kind: type[BerthError]) -> set[str]:
    return {kind.code}.union(*(_codes(one) for one in kind.__subclasses__()))


def test_every_error_code_has_words() -> None:
    import apps.deployments.discovery
    import apps.registry.client  # noqa: F401

    assert _codes(BerthError) - set(texts.CODES) == set()


@pytest.fixture
def chinese(tmp_path: Path, settings: Any) -> None:
    """The translations compiled for the test, as set-up does it for the portal."""
    folder = tmp_path / "zh_Hans" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    subprocess.run(["msgfmt", "--check-format", "-o", folder / "django.mo", PO], check=True)
    settings.LOCALE_PATHS = [tmp_path]


@pytest.mark.usefixtures("chinese")
def test_the_language_is_switched_and_kept(shop: Any, browser: Browser) -> None:
    client = browser("alice")
    assert "Sign out" in words(client.get("/").content)
    answer = client.post("/i18n/setlang/", {"language": "zh-hans", "next": "/apps/shop/"}, follow=True)
    assert answer.redirect_chain == [("/apps/shop/", 302)]
    assert '<html lang="zh-hans">' in answer.content.decode()
    text = words(answer.content)
    assert "推送版本" in text
    assert "尚未部署" in text
    refused = client.post("/apps/shop/deploy", {"version": "9.9"})
    assert "应用没有此版本。" in words(refused.content)


@pytest.mark.usefixtures("chinese")
def test_reasons_come_in_the_reader_s_language_first() -> None:
    with translation.override("zh-hans"):
        assert texts.sentence("slug.taken", "Taken.") == "名称已被占用。应用名称在平台内唯一，请换一个。 (Taken.)"
    with translation.override("en"):
        assert texts.sentence("slug.taken", "Taken.") == "Taken."
        assert "10.0.0.1" not in texts.sentence("engine.unreachable", "10.0.0.1 refused")
        assert texts.sentence("unknown.code", "As it is.") == "As it is."
