"""``manage.py watch_engines``: the watcher, a process that follows the hosts' events until SIGTERM."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.watching import Watcher

#: How often hosts are taken and given up, and leases renewed (LEASE_S is 10). Seconds.
TURN_S = 2.0


class Command(BaseCommand):
    help = (
        "Follow the engines' events, so that a crashed container is unrouted at once. Run one or more: each takes "
        "at most BERTH_WATCH_HOSTS hosts, and those of one that ended go to the others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--heartbeat", type=Path, help="a file to touch after each turn that went well")

    def handle(self, *args: Any, **options: Any) -> None:
        heartbeat: Path | None = options["heartbeat"]
        # Waited for instead of handled: threads inherit that these do not interrupt them.
        ending = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        watcher = Watcher(Clients(), limit=settings.WATCH_HOSTS)
        try:
            while True:
                if watcher.turn() and heartbeat is not None:
                    heartbeat.touch()
                if signal.sigtimedwait(ending, TURN_S) is not None:
                    return
        finally:
            watcher.close()
