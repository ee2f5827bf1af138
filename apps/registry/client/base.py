"""The connection to our own registry, and what can go wrong with it."""

from __future__ import annotations

import ssl

import httpx
from django.conf import settings

from apps.core.errors import PlatformError


class RegistryUnavailable(PlatformError):
    """No answer at all: asking about other repositories is of no use now."""

    code = "registry.unavailable"


class RepositoryUnreadable(PlatformError):
    """An answer that is none, about this one repository."""

    code = "registry.repository_unreadable"


class ImageRefused(PlatformError):
    """The registry understood what was pushed, and does not take it."""

    code = "registry.image_refused"


def open_client(timeout_s: float) -> httpx.Client:
    """For as long as each answer may take, in seconds. Close it when done."""
    verify = ssl.create_default_context(cafile=settings.REGISTRY_CA) if settings.REGISTRY_CA else True
    return httpx.Client(base_url=settings.REGISTRY_URL, verify=verify, timeout=timeout_s)
