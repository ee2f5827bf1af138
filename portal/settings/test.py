"""The test-suite: PostgreSQL by DATABASE_URL, else SQLite; secrets are made for the run."""

from __future__ import annotations

import os
import secrets

from cryptography.fernet import Fernet

from portal.settings.base import *  # noqa: F403
from portal.settings.base import ALLOWED_HOSTS, DATABASES, ENCRYPTION_KEYS, SECRET_KEY, STATIC_ROOT, VAR, env

FAILPOINTS_FILE = env.str("BERTH_FAILPOINTS", default="")
if name := os.environ.get("BERTH_TEST_DATABASE"):
    # Two runs at once on one server need a database each.
    sqlite = DATABASES["default"]["ENGINE"].endswith("sqlite3")
    DATABASES["default"]["TEST"] = {"NAME": str(VAR / f"{name}.sqlite3") if sqlite else name}
SECRET_KEY = SECRET_KEY or secrets.token_urlsafe(48)
ENCRYPTION_KEYS = ENCRYPTION_KEYS or [Fernet.generate_key().decode()]
ALLOWED_HOSTS = [*ALLOWED_HOSTS, "testserver"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# whitenoise warns of a directory that is not there.
STATIC_ROOT.mkdir(parents=True, exist_ok=True)
