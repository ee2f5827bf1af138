"""``manage.py base_images``: build the platform's own images, and push them."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.core.errors import BerthError
from apps.registry import building
from apps.registry.base_images import base_image, base_images
from apps.registry.building import Builder, BuildFailed, push


class Command(BaseCommand):
    help = "Build the images of images/ and push them. Needs root, podman, debootstrap and a Debian mirror."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", help="which; all of them where none is named")
        parser.add_argument("--no-push", action="store_true", help="only build")
        parser.add_argument("--scratch", type=Path, default=None, help="where layers are kept for the next build")

    def handle(self, *, names: list[str], no_push: bool, scratch: Path | None, **_: Any) -> None:
        try:
            wanted = [base_image(name) for name in names] if names else list(base_images().values())
            builder = Builder(scratch or building.scratch(), self.stdout.write)
            builder.base()
            for image in wanted:
                for tag in image.versions:
                    laid_out = builder.image(image, tag)
                    if not no_push:
                        self.stdout.write(f"{image.repository}:{tag}: {push(image, tag, laid_out)}")
        except (BuildFailed, BerthError) as error:
            raise CommandError(str(error)) from None
