"""An app from one of the platform's own images: "deploy redis"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction

from apps.core.errors import Invalid
from apps.deployments.models import App
from apps.deployments.services.apps import app_create
from apps.deployments.services.imports import app_import
from apps.registry.base_images import base_image, env_for
from apps.registry.models import Import, Version
from apps.tenants.models import Tenant, User


class BaseImageInvalid(Invalid):
    code = "base_images.invalid"


@dataclass(frozen=True, slots=True)
class Made:
    """``generated`` are passwords that were made here: shown this once, and kept only in the release."""

    app: App
    copy: Import
    generated: Mapping[str, str]


@transaction.atomic
def app_from_base(*, tenant: Tenant, slug: str, image: str, version: str, env: Mapping[str, str], by: User) -> Made:
    """An app with a copy of the image as its first version, deployed as soon as that is there; empty: newest version.

    It keeps to its release: data in the container ends with the instance. Raises BaseImageMissing, BaseImageInvalid,
    BaseEnvInvalid, and what ``app_create`` and ``import_begin`` do.
    """
    found = base_image(image)
    version = version or found.versions[-1]
    if not found.app:
        raise BaseImageInvalid(f"{image} runs nothing by itself: begin a Dockerfile with it.", field="image")
    ready = Version.objects.filter(repository__name=found.repository, tag=version, is_current=True)
    if version not in found.versions or not ready.exists():
        raise BaseImageInvalid(f"There is no {image} {version[:40]} here. Pick another version.", field="version")
    hidden, readable, made = env_for(found, env)
    protocol = App.Protocol.TCP if found.health == "tcp" else App.Protocol.HTTP
    app = app_create(tenant=tenant, slug=slug, by=by, protocol=protocol)
    copy = app_import(
        app=app,
        source=f"{settings.REGISTRY_PUBLIC}/{found.repository}:{version}",
        tag=version,
        by=by,
        deploy=True,
        deploy_with={
            "secrets": hidden,
            "settings": readable,
            "container_port": found.port,
            "memory_mb": found.memory_mb,
            "stop_signal": found.stop_signal,
            "health_path": "" if found.health == "tcp" else found.health,
        },
    )
    return Made(app, copy, made)
