"""Each rule of the house fails when it is broken on purpose: a rule that can't fail checks nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.environment import ROOT

BIN = Path(sys.executable).parent
TREES = ("apps", "portal", "workers", "gateway", "stack")
FILES = ("pyproject.toml", ".importlinter", "manage.py", "conftest.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The checked tree, in a place where it may be broken; tests and caches left out."""
    root = tmp_path_factory.mktemp("house")
    for tree in TREES:
        shutil.copytree(ROOT / tree, root / tree, ignore=shutil.ignore_patterns("__pycache__", "tests", "static"))
    for file in FILES:
        shutil.copy(ROOT / file, root / file)
    return root


def _run(copy, tool, *arguments):
    return subprocess.run(
        [str(BIN / tool), *arguments], cwd=copy, capture_output=True, text=True, timeout=170, check=False
    )


@pytest.fixture
def broken(copy):
    """Adds a module for one test."""
    added = []

    def add(path, text):
        target = copy / path
        assert not target.exists()
        target.write_text(text)
        added.append(target)

    yield add
    for target in added:
        target.unlink()


def test_the_import_rules_hold_as_they_stand(copy):
    result = _run(copy, "lint-imports", "--no-cache")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("path", "text", "contract"),
    [
        ("apps/tenants/broken.py", "import apps.deployments.models\n", "Packages point downwards"),
        ("apps/deployments/broken.py", "import workers.clients\n", "Packages point downwards"),
        ("apps/hosts/models/broken.py", "import apps.hosts.services.claims\n", "Inside an app"),
        ("apps/deployments/services/broken.py", "import apps.hosts.engines.connect\n", "Only reconcile and live"),
        ("apps/registry/services/broken.py", "import apps.registry.api.views\n", "Nobody below portal"),
        ("apps/deployments/api/broken.py", "import apps.tenants.api.views\n", "An api never imports another"),
        ("gateway/broken.py", "import django\n", "The gateway stands alone"),
        ("apps/core/broken.py", "import gateway.agent\n", "Apps see only the gateway's contract"),
        ("apps/deployments/scheduler/broken.py", "import django\n", "Scheduler and engines are plain"),
        ("workers/broken.py", "import docker\n", "Each SDK has one home"),
        ("apps/registry/broken.py", "import kazoo\n", "Each SDK has one home"),
        ("portal/broken.py", "import guardian\n", "Each SDK has one home"),
    ],
)
def test_an_import_against_the_rules_fails(copy, broken, path, text, contract):
    broken(path, text)
    result = _run(copy, "lint-imports", "--no-cache")
    assert result.returncode != 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(contract) and "BROKEN" in line]
    assert line


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import os\n", "F401"),
        ('import subprocess\n\nsubprocess.run("ls", shell=True)\n', "S602"),
        ("from datetime import datetime\n\nNOW = datetime.now()\n", "DTZ005"),
        ("def f(x=[]):\n    return x\n", "B006"),
        ('print("x")\n', "T201"),
    ],
)
def test_code_against_the_lint_rules_fails(copy, broken, text, code):
    broken("apps/core/broken.py", text)
    result = _run(copy, "ruff", "check", "apps/core/broken.py")
    assert result.returncode != 0
    assert code in result.stdout


def test_unformatted_code_fails(copy, broken):
    broken("apps/core/broken.py", "x = {  'a':1 }\n")
    assert _run(copy, "ruff", "format", "--check", "apps/core/broken.py").returncode != 0


def test_a_wrong_type_fails(copy, broken):
    broken(
        "apps/core/broken.py",
        "from apps.core.clock import after\n\n\ndef f() -> int:\n    return after('x')\n\n\ndef g(x):\n    return x\n",
    )
    result = _run(copy, "mypy")
    assert result.returncode != 0
    assert "[arg-type]" in result.stdout
    assert "[return-value]" in result.stdout
    assert "[no-untyped-def]" in result.stdout
    assert all("broken.py" in line for line in result.stdout.splitlines() if ": error:" in line)
