"""``manage.py registry_collect``: give back what the registry stores and nothing names. Runs on the registry's machine.

Safe beside pushes (docs/decisions/0026), as the user whose files they are, once or again and again (``--every``).
"""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connections

from apps.core.errors import PlatformError
from apps.registry.collecting import UnfitRegistry, collect, root_of
from apps.registry.storage.collect import Busy, NoStorage, Rules

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    help = (
        "Delete what the registry stores and no manifest names. Give the registry's own configuration file; it must "
        "store in a directory of this machine, and have no cache of blob descriptors."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        default = Rules()
        parser.add_argument("--config", type=Path, required=True, help="the registry's configuration (config.yml)")
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
        parser.add_argument("--json", action="store_true", help="print one JSON object for each run")
        parser.add_argument("--every", type=float, default=0.0, help="seconds between runs; 0: run once")
        parser.add_argument("--grace", type=float, default=default.grace_s, help="what is younger stays (seconds)")
        parser.add_argument("--busy", type=float, default=default.busy_s, help="the same, where pushes never pause")
        parser.add_argument(
            "--settle", type=float, default=default.settle_s, help="how long it is looked again before deleting"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        if not options["every"]:
            self._run(options)
            return
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: stopping.set())
        while not stopping.is_set():
            try:
                self._run(options)
            except (CommandError, Error, OSError) as error:
                # The next run may do better; a registry without its clean-up is seen in the log.
                log.error("registry_collect_failed", error=str(error))
            connections.close_all()
            stopping.wait(options["every"])

    def _run(self, options: dict[str, Any]) -> None:
        rules = Rules(grace_s=options["grace"], busy_s=options["busy"], settle_s=options["settle"])
        try:
            report = collect(root_of(options["config"]), rules=rules, dry_run=options["dry_run"])
        except (Busy, NoStorage, UnfitRegistry, PlatformError) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(asdict(report)))
            return
        would = "would free" if options["dry_run"] else "freed"
        self.stdout.write(
            f"{would} {report.freed} bytes: {report.blobs} blobs, {report.links} links; {report.restored} put back"
        )
        for one in report.unreadable:
            self.stderr.write(f"kept whole, since a manifest can't be read: {one}")
        for one in report.busy:
            self.stdout.write(f"left for later, pushes are about: {one}")
