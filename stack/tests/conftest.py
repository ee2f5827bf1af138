"""Small parts that stand for real ones where only the runner is tested, and directories that are always cleared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import ports, probes
from stack.parts.base import Part, Port
from stack.runner import Stack

Server = Callable[[str], Part]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "environment"
    path.mkdir()
    # PostgreSQL's user must be able to pass through pytest's private directories.
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith("pytest-"):
            parent.chmod(0o711)
    tmp_path.chmod(0o711)
    yield path
    Stack(path, []).stop()


@pytest.fixture
def server(directory: Path) -> Server:
    """A part that serves HTTP from Python's standard library; in no time, and without any package."""
    numbers = ports.choose_free(["a", "b", "c", "d"])

    def make(name: str, **changes: object) -> Part:
        number = numbers[name]
        arguments: dict[str, object] = {
            "name": name,
            "argv": [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(number)],
            "ready": lambda: probes.tcp(number),
            "cwd": directory,
            "ports": [Port(number, f"part {name}", f"BERTH_PORT_{name.upper()}")],
        }
        return Part(**{**arguments, **changes})  # type: ignore[arg-type]

    return make
