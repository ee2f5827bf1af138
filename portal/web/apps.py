from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "portal.web"
    label = "web"

    def ready(self) -> None:
        """Every process that runs Django sends its nudges through our Celery app, not through Celery's default one."""
        import_module("workers.celery")
