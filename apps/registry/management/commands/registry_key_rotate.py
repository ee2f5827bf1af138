"""Change the key that signs the registry's tokens, with no pull refused meanwhile."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.clock import now
from apps.registry.client import RegistryUnavailable, RepositoryUnreadable, accepts
from apps.registry.models import TokenKey
from apps.registry.services import keys
from apps.registry.services.tokens import token_issue

_ASK_EVERY_S = 0.5


class Command(BaseCommand):
    help = (
        "Make a new key, put its certificate into the registry's bundle, wait until the registry trusts it, sign with "
        "it, and remove the old one once its last token has ended. Safe to run again wherever it was interrupted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bundle",
            default=settings.REGISTRY_TOKEN_CERT,
            help="the registry's auth.token.rootcertbundle; default: BERTH_REGISTRY_TOKEN_CERT",
        )
        parser.add_argument(
            "--restart",
            default="",
            help="a command that restarts the registry, which reads the bundle only at its start; run without a shell",
        )
        parser.add_argument(
            "--registry",
            action="append",
            default=[],
            help="URL of a registry that must trust the new key; once for each. Default: BERTH_REGISTRY_URL",
        )
        parser.add_argument("--wait", type=float, default=300, help="seconds that the registry has to trust the key")
        parser.add_argument(
            "--prepare", action="store_true", help="only make the key and write the bundle; sign with it another time"
        )
        parser.add_argument("--no-wait", action="store_true", help="leave the removal of the old key to the next run")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["bundle"]:
            raise CommandError("Give --bundle, or set BERTH_REGISTRY_TOKEN_CERT: the file that the registry reads.")
        if keys.keys_remove() and not options["prepare"]:
            # The end of an earlier run, not the beginning of another rotation.
            self._removed(options)
            return
        prepared = keys.key_prepare() if options["prepare"] or not keys.retiring_until() else _prepared()
        self._write(options["bundle"])
        if options["prepare"]:
            self._say("The new key is in the bundle. Run this again without --prepare once the registry was restarted.")
            return
        if prepared is not None:
            self._trusted(prepared, options)
            keys.key_switch(prepared.kid)
            self._say(f"Tokens are signed by {prepared.kid[:9]}… now.")
        self._remove(options)

    def _trusted(self, prepared: TokenKey, options: dict[str, Any]) -> None:
        """Returns once every registry trusts it. Raises CommandError."""
        token = token_issue(subject="", access=[], key=keys.loaded(prepared)).token
        urls = options["registry"] or [settings.REGISTRY_URL]
        if not self._ask(token, urls):
            self._restart(options["restart"])
        deadline = time.monotonic() + options["wait"]
        while not self._ask(token, urls):
            if time.monotonic() >= deadline:
                raise CommandError(
                    "The registry does not trust the new key yet; nothing was changed. Restart it with the bundle as "
                    "it is now, then run this again."
                )
            time.sleep(_ASK_EVERY_S)

    def _ask(self, token: str, urls: list[str]) -> bool:
        try:
            return all(accepts(token, url=url) for url in urls)
        except (RegistryUnavailable, RepositoryUnreadable):
            return False

    def _restart(self, command: str) -> None:
        if not command:
            self._say("Restart the registry now: it reads the bundle only at its start. Waiting for it.")
            return
        done = subprocess.run(shlex.split(command), check=False)
        if done.returncode:
            raise CommandError(f"{command} failed ({done.returncode}). Mend that, then run this again.")

    def _remove(self, options: dict[str, Any]) -> None:
        until = keys.retiring_until()
        if until is not None and options["no_wait"]:
            self._say(f"Run this again after {until:%Y-%m-%d %H:%M:%S} UTC: it removes the old key then.")
            return
        if until is not None:
            self._say(f"Waiting until {until:%H:%M:%S} UTC, when the old key's last token has ended.")
        while until is not None and now() < until:
            time.sleep(max(0.0, min(5.0, (until - now()).total_seconds())))
        keys.keys_remove()
        self._removed(options)

    def _removed(self, options: dict[str, Any]) -> None:
        self._write(options["bundle"])
        if options["restart"]:
            self._restart(options["restart"])
        self._say("The old key is removed. A registry that runs trusts it until its next restart.")

    def _write(self, path: str) -> None:
        """Whole or not at all: a registry may be starting."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text("".join(keys.trusted_certificates()))
        partial.chmod(0o644)
        with partial.open() as file:
            os.fsync(file.fileno())
        partial.replace(target)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _prepared() -> TokenKey | None:
    return TokenKey.objects.filter(status=TokenKey.Status.PREPARED).first()
