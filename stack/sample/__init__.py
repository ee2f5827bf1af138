"""The sample app: its image is built from the Dockerfile beside this file."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stack.parts.base import Need, StackError, program

NEED = Need("/bin/busybox", "busybox-static")
_HERE = Path(__file__).resolve().parent


def build(tag: str, *, env: Mapping[str, str], dockerfile: str = "") -> None:
    """``docker build`` of the sample on the engine that ``env`` names, by DOCKER_HOST or by default.

    ``dockerfile`` replaces the text of the Dockerfile, for tests that want an app which misbehaves.
    """
    busybox = shutil.which("busybox") or "/bin/busybox"
    if not Path(busybox).exists():
        raise StackError(f"{NEED.program} is missing: apt-get install {NEED.package}")
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        shutil.copytree(_HERE / "app", context / "app")
        shutil.copy(busybox, context / "busybox")
        text = dockerfile or (_HERE / "Dockerfile").read_text()
        (context / "Dockerfile").write_text(text)
        docker(["build", "--tag", tag, str(context)], env=env)


def docker(arguments: list[str], *, env: Mapping[str, str], stdin: str = "", timeout_s: float = 180) -> str:
    """The docker command with these arguments. Raises StackError with what it said."""
    # Debian's engine has the classic builder only.
    result = subprocess.run(
        [program("docker"), *arguments],
        env={**env, "DOCKER_BUILDKIT": "0"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if result.returncode:
        shown = " ".join(arguments[:2])
        raise StackError(f"docker {shown} failed ({result.returncode}): {(result.stderr or result.stdout).strip()}")
    return result.stdout
