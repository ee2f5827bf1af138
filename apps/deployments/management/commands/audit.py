"""``manage.py audit``: whether what must hold does hold; for operators, their monitoring, and tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.deployments.reconcile.audit import SETTLE_S, Audit, audit, nudge
from apps.deployments.reconcile.clients import Clients
from apps.deployments.services.audit import Violation
from apps.deployments.services.audit_repair import violations_repair


class Command(BaseCommand):
    help = (
        "Compare allocations, ports, counters, instances, the engines' containers and ZooKeeper, and print what does "
        "not agree. Exits with 1 if anything does not (still, after a repair)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--repair", action="store_true", help="mend what is safe; ask the loop to do the rest")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--database-only", action="store_true", help="ask neither engines nor ZooKeeper")
        parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds between the first and second look")
        parser.add_argument("--strict", action="store_true", help="fail for warnings too")

    def handle(self, *args: Any, **options: Any) -> None:
        clients = None if options["database_only"] else Clients()
        found = self._audit(clients, options)
        repaired: list[Violation] = []
        nudged: list[str] = []
        if options["repair"] and found.violations:
            repaired = violations_repair(found.violations)
            if repaired:
                found = self._audit(clients, options)
            nudged = nudge(found)
        if options["json"]:
            self._tell_json(found, repaired, nudged)
        else:
            self._tell(found, repaired, nudged)
        failing = found.violations if options["strict"] else found.errors
        if failing:
            raise CommandError(f"{len(failing)} violation(s)", returncode=1)

    def _audit(self, clients: Clients | None, options: dict[str, Any]) -> Audit:
        return audit(clients, settings.PLATFORM_ID, settle_s=options["settle"])

    def _tell_json(self, found: Audit, repaired: Sequence[Violation], nudged: Sequence[str]) -> None:
        told = {
            "violations": [asdict(one) for one in found.violations],
            "repaired": [asdict(one) for one in repaired],
            "notes": found.notes,
            "nudged": nudged,
        }
        self.stdout.write(json.dumps(told))

    def _tell(self, found: Audit, repaired: Sequence[Violation], nudged: Sequence[str]) -> None:
        for one in repaired:
            self.stdout.write(f"repaired  {one.code}  {one.subject}: {one.message}")
        for one in found.violations:
            self.stdout.write(f"{'warning' if one.warning else 'violation'}  {one.code}  {one.subject}: {one.message}")
        for note in (*found.notes, *nudged):
            self.stdout.write(f"note  {note}")
        warnings = len(found.violations) - len(found.errors)
        self.stdout.write(
            f"{len(found.errors)} violation(s), {warnings} warning(s), {len(repaired)} repaired, "
            f"{len(found.notes)} not looked at"
        )
