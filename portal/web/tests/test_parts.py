"""The small pure parts, and the front-end packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from portal.web.envtext import EnvTextInvalid, parse_env
from portal.web.states import AppState, Facts, state_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n  \n# remark\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("export A = b c  ", {"A": "b c"}),
        ("URL=postgres://u:p@h/d?x=1#frag", {"URL": "postgres://u:p@h/d?x=1#frag"}),
        ("A='x # y'  # remark\nB=2", {"A": "x # y", "B": "2"}),
        ("A='one\ntwo'\nB=2", {"A": "one\ntwo", "B": "2"}),
        ('A="one\ntwo\\n\\t\\"\\\\\\$\\q"', {"A": 'one\ntwo\n\t"\\$\\q'}),
        ("A=\nB=", {"A": "", "B": ""}),
        ("A=it's", {"A": "it's"}),
        ("A=$HOME", {"A": "$HOME"}),
        ("A=名字", {"A": "名字"}),
    ],
)
def test_env_text_is_read_as_people_mean_it(text: str, expected: dict[str, str]) -> None:
    assert parse_env(text) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [("A", 1), ("A=1\n\n9B=2", 3), ("A=1\nA=2", 2), ("A='x", 1), ('A="x\\"', 1), ("A=1\nB='x' y", 2), ("=1", 1)],
)
def test_env_text_that_is_wrong_names_its_line(text: str, line: int) -> None:
    with pytest.raises(EnvTextInvalid, match=rf"line {line}\b|Line {line}\b"):
        parse_env(text)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), st.text(max_size=40), max_size=5))
def test_any_value_can_be_said_in_double_quotes(env: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
        return f'"{escaped}"'

    assert parse_env("\n".join(f"{name}={quoted(value)}" for name, value in env.items())) == env


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(ready=0, wanted=0, held=0), AppState.NEW),
        (Facts(ready=2, wanted=2, held=2, last="progressing", deleting=True), AppState.DELETING),
        (Facts(ready=0, wanted=2, held=2, last="progressing"), AppState.DEPLOYING),
        (Facts(ready=2, wanted=2, held=2, last="succeeded"), AppState.RUNNING),
        (Facts(ready=1, wanted=2, held=2, last="succeeded"), AppState.DEGRADED),
        (Facts(ready=0, wanted=2, held=2, last="succeeded"), AppState.DOWN),
        (Facts(ready=2, wanted=2, held=3, last="failed"), AppState.RUNNING),
        (Facts(ready=0, wanted=0, held=1, last="failed"), AppState.FAILED),
        (Facts(ready=2, wanted=0, held=2, last="progressing", removal=True), AppState.UNDEPLOYING),
        (Facts(ready=0, wanted=0, held=1, last="failed", removal=True), AppState.UNDEPLOYING),
        (Facts(ready=0, wanted=0, held=0, last="succeeded", removal=True), AppState.STOPPED),
        (Facts(ready=0, wanted=0, held=0, last="succeeded", asleep=True), AppState.ASLEEP),
        (Facts(ready=1, wanted=0, held=1, last="failed", asleep=True), AppState.ASLEEP),
        (Facts(ready=0, wanted=0, held=0, last="progressing", asleep=True), AppState.DEPLOYING),
        (Facts(ready=0, wanted=0, held=0, last="rolled_back"), AppState.FAILED),
    ],
)
def test_one_word_says_what_an_app_does(facts: Facts, expected: AppState) -> None:
    assert state_of(facts) == expected


ROOT = Path(settings.ROOT)


def test_front_end_packages_are_pinned_and_name_no_registry() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    lock = json.loads((ROOT / "package-lock.json").read_text())
    for name, version in package["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, one in lock["packages"].items():
        assert "resolved" not in one, name
        assert not name or one["integrity"].startswith("sha512-")


def test_our_scripts_and_styles_fetch_nothing_from_elsewhere() -> None:
    for path in (ROOT / "portal" / "web" / "static" / "web").iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "eval(" not in text, path
