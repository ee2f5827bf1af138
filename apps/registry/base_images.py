"""The platform's own images: what images/ says of each. Kept as files, so that a change of them is a change of code.

Plain: a page and a command read it; nothing in it comes from tenants.
"""

from __future__ import annotations

import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from apps.core.errors import Invalid, Missing
from apps.registry.models.repositories import TAG
from apps.tenants.models.tenants import SLUG

#: The tenant that owns them, which has no members: nobody but the command pushes to them.
OWNER = "berth-images"
#: Their repositories' names begin so, and no app's may.
PREFIX = "base-"
#: As the images' entrypoints take them (images/debian/refuse.sh).
_PASSWORD = re.compile(r"[A-Za-z0-9._~+-]{12,128}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class BaseImageMissing(Missing):
    code = "base_images.not_found"


class BaseEnvInvalid(Invalid):
    code = "base_images.env_invalid"


@dataclass(frozen=True, slots=True)
class Needed:
    """A variable that the image wants. A password that is not given is made; a name has a default."""

    name: str
    kind: str
    default: str
    words: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BaseImage:
    """``app``: runs as it is; the others are to begin a Dockerfile with. ``health`` is a path, or "tcp"."""

    name: str
    app: bool
    port: int
    protocol: str
    memory_mb: int
    stop_signal: str
    volumes: tuple[str, ...]
    health: str
    purpose: Mapping[str, str]
    versions: tuple[str, ...]
    env: tuple[Needed, ...]

    @property
    def repository(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def keeps_data(self) -> bool:
        return bool(self.volumes)


def directory() -> Path:
    return Path(settings.ROOT) / "images"


@lru_cache(maxsize=1)
def base_images() -> dict[str, BaseImage]:
    """By name, in their order."""
    found = (_read(file) for file in sorted(directory().glob("*/image.toml")))
    return {one.name: one for one in found}


def base_image(name: str) -> BaseImage:
    """Raises BaseImageMissing."""
    found = base_images().get(name)
    if found is None:
        raise BaseImageMissing("The platform has no such image.")
    return found


def env_for(image: BaseImage, given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Secrets, settings, and of the secrets those that were made here. Raises BaseEnvInvalid."""
    hidden: dict[str, str] = {}
    readable: dict[str, str] = {}
    made: dict[str, str] = {}
    if unknown := set(given) - {one.name for one in image.env}:
        raise BaseEnvInvalid(f"{image.name} takes no variable {min(unknown)[:60]!r}.", field="env")
    for one in image.env:
        value = given.get(one.name, "")
        if one.kind == "password":
            if not value:
                value = made[one.name] = secrets.token_urlsafe(24)
            if not _PASSWORD.fullmatch(value):
                raise BaseEnvInvalid(
                    f"{one.name} must have 12 to 128 characters: letters, digits and . _ ~ + - only.", field=one.name
                )
            hidden[one.name] = value
        else:
            value = value or one.default
            if not _NAME.fullmatch(value):
                raise BaseEnvInvalid(
                    f"{one.name} must begin with a small letter; small letters, digits and _, 32 at most.",
                    field=one.name,
                )
            readable[one.name] = value
    return hidden, readable, made


def _read(file: Path) -> BaseImage:
    raw: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    name = raw["name"]
    versions = tuple(one["tag"] for one in raw["versions"])
    if not re.fullmatch(SLUG, name) or name != file.parent.name or not all(re.fullmatch(TAG, one) for one in versions):
        raise ValueError(f"{file}: name or versions can't be used")
    env = tuple(
        Needed(one["name"], one["kind"], one.get("default", ""), {"en": one["en"], "zh": one["zh"]})
        for one in raw.get("env", ())
    )
    return BaseImage(
        name=name,
        app=raw["app"],
        port=raw["port"],
        protocol=raw["protocol"],
        memory_mb=raw["memory_mb"],
        stop_signal=raw["stop_signal"],
        volumes=tuple(raw["volumes"]),
        health=raw["health"],
        purpose=raw["purpose"],
        versions=versions,
        env=env,
    )
