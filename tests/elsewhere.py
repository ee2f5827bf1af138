"""Somebody else's registry: a real one, over TLS, that lets one user in. Images are copied out of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from stack.environment import Environment
from stack.parts.base import Part
from stack.parts.registry import registry

USERNAME, PASSWORD = "robot", "s3cret"
#: Of the whole platform's tests, beside that platform's own.
DIRECTORY = "elsewhere"
#: bcrypt of the password, of the least cost.
_USERS = f"{USERNAME}:$2b$04$atcZuDrq2fWRpxMh9onIyuHRV/V8jld1fLR68515qKS2eh/0L0q6.\n"


def place(env: Environment) -> str:
    """How it is named in references. Its authority is the environment's ``registry_authority``."""
    return f"127.0.0.1:{env.ports['registry']}"


def authority(directory: Path) -> Path:
    """Where the certificate that it is trusted by will be, once its environment was opened in the directory."""
    return directory / "pki" / "registry-ca" / "ca.pem"


def elsewhere(env: Environment) -> Part:
    part = registry(env, token_auth=False)
    directory = env.part_directory("registry")
    config, users = directory / "config.yml", directory / "users"

    def prepare() -> None:
        part.prepare()
        users.write_text(_USERS)
        said = json.loads(config.read_text())
        config.write_text(json.dumps({**said, "auth": {"htpasswd": {"realm": "there", "path": str(users)}}}))

    return replace(part, prepare=prepare)
