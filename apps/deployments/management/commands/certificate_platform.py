"""``manage.py certificate_platform``: take the platform's own certificate from files, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.deployments.pem import CertificateInvalid
from apps.deployments.services.certificates import certificate_of_platform


class Command(BaseCommand):
    help = "Take the platform's certificate (PEM, with its chain) and its key from files; workers publish it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--chain", default=settings.PLATFORM_CERTIFICATE)
        parser.add_argument("--key", default=settings.PLATFORM_CERTIFICATE_KEY)

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["chain"] or not options["key"]:
            raise CommandError("Give --chain and --key, or set BERTH_PLATFORM_CERTIFICATE and …_KEY.")
        try:
            chain, key = (Path(options[name]).read_text("ascii") for name in ("chain", "key"))
            found = certificate_of_platform(chain=chain, key=key)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"A file can't be read: {error}") from error
        except CertificateInvalid as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"{', '.join(found.names)} until {found.not_after:%Y-%m-%d %H:%M} UTC")
