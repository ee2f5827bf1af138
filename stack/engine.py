"""Finds a Docker Engine that already runs here. ``python -m stack.engine`` exits 0 when there is one to use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stack import probes

_DEFAULT = "/var/run/docker.sock"


def find_engine() -> Path | None:
    """The socket of an engine that answers us, by DOCKER_HOST or at its usual place; None when there is none.

    Only engines of this machine: a remote one could not reach the registry and the portal on our loopback, and
    a rootless one has a loopback of its own. With DOCKER_HOST set, only that one is asked.
    """
    named = os.environ.get("DOCKER_HOST", "")
    if named and not named.startswith("unix://"):
        return None
    path = Path(named.removeprefix("unix://") or _DEFAULT)
    if path.is_relative_to("/run/user"):
        return None
    try:
        return path if probes.unix_http_status(path, "/_ping") == 200 else None
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(0 if find_engine() else 1)
