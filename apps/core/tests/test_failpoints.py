"""Failpoints: each is somewhere in the code, none has another name, and an armed one is taken once."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path

import pytest

from apps.core import failpoints

ROOT = Path(__file__).resolve().parents[3]


def _calls():
    """Names given to ``reached`` in our code, with the place; None where it is not written out."""
    for path in [*ROOT.glob("apps/**/*.py"), *ROOT.glob("workers/**/*.py"), *ROOT.glob("portal/**/*.py")]:
        if "tests" in path.parts or path.name == "failpoints.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name


def test_every_failpoint_is_reached_somewhere_and_every_call_names_one():
    found = dict(_calls())
    assert {place: name for place, name in found.items() if name not in failpoints.FAILPOINTS} == {}
    assert set(failpoints.FAILPOINTS) - set(found.values()) == set()
    assert len(set(failpoints.FAILPOINTS)) == len(failpoints.FAILPOINTS)


@pytest.fixture
def armed(tmp_path, settings):
    """Writes lines into the file; returns what a process that is armed by them would die of."""
    path = tmp_path / "failpoints"
    settings.FAILPOINTS_FILE = str(path)
    return path


def _ends(*calls):
    """How a child ends that comes by these."""
    pid = os.fork()
    if not pid:
        try:
            for name, app in calls:
                failpoints.reached(name, app)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_an_armed_one_kills_once_and_says_so(armed):
    armed.write_text("container.made\nroute.noted\n")
    assert _ends(("instance.ready", "shop"), ("container.made", "shop")) == -signal.SIGKILL
    assert armed.read_text() == "route.noted\n"
    assert armed.with_name("failpoints.hit").read_text().split()[0] == "container.made"
    assert _ends(("container.made", "shop")) == 0


def test_one_armed_for_an_app_spares_the_others(armed):
    armed.write_text("container.made:shop\n")
    assert _ends(("container.made", "other"), ("container.made", "")) == 0
    assert _ends(("container.made", "shop")) == -signal.SIGKILL


def test_without_a_file_nothing_happens(armed, settings):
    assert _ends(("container.made", "shop")) == 0
    settings.FAILPOINTS_FILE = ""
    assert _ends(("container.made", "shop")) == 0
