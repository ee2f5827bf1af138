"""What a part is, and how its program is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# On Debian an ordinary user's PATH lacks the sbin directories, where haproxy, dockerd and iptables are, and
# nobody's PATH holds PostgreSQL's server programs.
_EXTRA_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")


class StackError(Exception):
    """Something that the reader can act on: the message says what is wrong and what to do. Not a bug here."""


class MissingPrograms(StackError):
    """Programs that the parts need are not on this machine."""


class PartFailed(StackError):
    """A part ended, or was not ready in time."""


@dataclass(frozen=True, slots=True)
class Need:
    """A program, or a file when ``program`` has a slash, and the Debian package that has it."""

    program: str
    package: str

    def met(self) -> bool:
        if "/" in self.program:
            return Path(self.program).exists()
        return find_program(self.program) is not None


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port that a part listens on. ``variable`` is the environment variable that moves it."""

    number: int
    wanted_by: str
    variable: str
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Part:
    """A process that supervisord runs.

    ``ready`` is called often and must be quick (about a second at most): true once the part serves; whatever
    it raises of OSError counts as "not yet". ``prepare`` runs before every start and must be safe to repeat,
    ``cleanup`` after the end, and also before a start, for what an earlier run left. Times are seconds.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: str | None = None
    needs: Sequence[Need] = ()
    ports: Sequence[Port] = ()
    after: Sequence[str] = ()
    prepare: Callable[[], None] | None = None
    cleanup: Callable[[], None] | None = None
    stop_signal: str = "TERM"
    stop_wait_s: int = 10
    stop_group: bool = False
    autorestart: bool = False
    start_wait_s: float = 30.0
    hint: str = ""


def search_path() -> str:
    """PATH with the directories added where Debian keeps server programs."""
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_of, reverse=True)
    found = os.environ.get("PATH", "").split(os.pathsep)
    extra = [*_EXTRA_DIRECTORIES, *(str(path) for path in postgres)]
    return os.pathsep.join([*filter(None, found), *(item for item in extra if item not in found)])


def _version_of(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


def find_program(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def program(name: str) -> str:
    """The program's path; its bare name when it is missing, which the runner reports before any start."""
    return find_program(name) or name


def is_root() -> bool:
    return os.geteuid() == 0


def missing_message(missing: Sequence[tuple[str, Need]]) -> str:
    """Says which part lacks which program, and the one command that installs them all."""
    lines = [f"  {part} needs {need.program} (Debian package {need.package})" for part, need in missing]
    packages = " ".join(sorted({need.package for _, need in missing}))
    sudo = "" if is_root() else "sudo "
    return "\n".join(
        ["Programs are missing:", *lines, f"Install them: {sudo}apt-get install {packages}   (bin/setup.sh does)"]
    )
