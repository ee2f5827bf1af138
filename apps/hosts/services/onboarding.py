"""What a new machine is given: the script, the command that runs it, and whom to trust for images."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

_SCRIPTS = Path(__file__).resolve().parent.parent / "join"
#: It is put between single quotes in a shell script that runs as root.
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")


def portal_url() -> str:
    """The portal's address as machines reach it. Raises ImproperlyConfigured where it is no plain address."""
    url = str(settings.PORTAL_URL).rstrip("/")
    if not _URL.fullmatch(url):
        raise ImproperlyConfigured("BERTH_PORTAL_URL must be https://NAME or https://NAME:PORT.")
    return url


def join_script() -> str:
    """What an admin runs on a new machine. It holds no secret, and has the reporter in it."""
    reporter = (_SCRIPTS / "berth-host.sh").read_text()
    script = (_SCRIPTS / "join.sh").read_text()
    return script.replace("@PORTAL_URL@", portal_url()).replace("@REPORTER@\n", reporter)


def join_command(secret: str) -> str:
    """To be run as root. The secret goes by the environment: a command line can be read by every user of a machine."""
    url = portal_url()
    # Root runs what comes back: no redirect may lead from https to anything else.
    only = "--proto '=https' " if url.startswith("https:") else ""
    return f"curl {only}-fsSL {url}/join.sh | BERTH_JOIN_TOKEN={secret} sh"


def registry_trust() -> tuple[str, str]:
    """The name by which hosts reach the registry, and its authority's PEM; empty where the system's own will do."""
    path = settings.REGISTRY_CA
    return settings.REGISTRY_FOR_HOSTS, Path(path).read_text() if path else ""
