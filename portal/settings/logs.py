"""One line per event: JSON for machines, or coloured text for a person at a terminal."""

from __future__ import annotations

from typing import Any

import structlog


def logging_config(*, json: bool, level: str) -> dict[str, Any]:
    """The ``LOGGING`` dictionary; records of other libraries get the same shape as our own."""
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processor": renderer,
                "foreign_pre_chain": shared,
            }
        },
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {
            "kazoo": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            # The request's own line has the status of every refusal; only what broke needs a second one.
            "django.request": {"level": "ERROR"},
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
        },
    }
