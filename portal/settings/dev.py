"""A laptop: the demo, and ``manage.py`` by hand. Secrets come from stack/ or are made here, never fixed."""

from __future__ import annotations

import secrets

from cryptography.fernet import Fernet

from portal.settings.base import *  # noqa: F403
from portal.settings.base import ALLOWED_HOSTS, ENCRYPTION_KEYS, SECRET_KEY, VAR, env

FAILPOINTS_FILE = env.str("BERTH_FAILPOINTS", default="")
DEBUG = env.bool("BERTH_DEBUG", default=False)
ALLOWED_HOSTS = [*ALLOWED_HOSTS, ".localhost"]


def _kept(name: str, make: object) -> str:
    """A secret of this working copy, made once and readable by its owner only."""
    path = VAR / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(str(make()))  # type: ignore[operator]
    return path.read_text()


SECRET_KEY = SECRET_KEY or _kept("secret.key", lambda: secrets.token_urlsafe(48))
ENCRYPTION_KEYS = ENCRYPTION_KEYS or [_kept("encryption.key", lambda: Fernet.generate_key().decode())]
