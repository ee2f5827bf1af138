"""Building the platform's own images, and pushing them. By operators, on a machine of theirs; needs root.

No registry need be reachable: the lowest layer is debootstrap's, everything else comes from Debian's mirror. Podman
builds without a daemon and without containers' networks (buildah's "chroot" isolation).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from django.conf import settings
from django.db import transaction

from apps.core.clock import now
from apps.registry.base_images import OWNER, BaseImage, directory
from apps.registry.client import Push
from apps.registry.models import Repository
from apps.registry.services.tokens import Access, token_issue
from apps.registry.services.versions import version_pushed
from apps.tenants.models import Plan, Quota, Tenant

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
_BASE = "localhost/berth/debian:12"
#: Who pushes them: no user's name has a colon.
PUSHER = "berth:base-images"
#: What the owner may store. MiB.
STORAGE_MB = 20 * 1024
_CHUNK = 1 << 20
Say = Callable[[str], None]


class BuildFailed(Exception):
    """With the last lines of what the tool said."""


class Builder:
    """In one scratch directory, whose layers are used again by the next build."""

    def __init__(self, scratch: Path, say: Say) -> None:
        self._scratch = scratch
        self._say = say
        scratch.mkdir(parents=True, exist_ok=True)
        conf = scratch / "storage.conf"
        # "vfs" asks nothing of the kernel; images are built seldom.
        conf.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{scratch}/graph"\nrunroot = "{scratch}/run"\n', encoding="utf-8"
        )
        self._env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf)}

    def base(self) -> None:
        """The common layer, unless it is there."""
        if not self._run(["podman", "image", "exists", _BASE], fail=False):
            return
        self._say("debian: debootstrap")
        context = self._scratch / "debian"
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(directory() / "debian", context)
        root = self._scratch / "root"
        shutil.rmtree(root, ignore_errors=True)
        self._run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), MIRROR])
        # Devices and what the kernel mounts are the engine's to make.
        emptied = ("dev", "proc", "sys", "run", "var/cache/apt", "var/lib/apt/lists")
        excluded = [f"--exclude=./{name}/*" for name in emptied]
        self._run(
            [
                *("tar", "-C", str(root), "--numeric-owner", "--sort=name", "--one-file-system"),
                *(*excluded, "-cf", str(context / "rootfs.tar"), "."),
            ]
        )
        shutil.rmtree(root)
        self._build(context, _BASE, [])
        (context / "rootfs.tar").unlink()

    def image(self, image: BaseImage, tag: str) -> Path:
        """Build one, and lay it out as files: manifest.json, and its blobs by the hexadecimal part of their digests."""
        self._say(f"{image.name}:{tag}: building")
        name = f"localhost/berth/{image.name}:{tag}"
        self._build(directory() / image.name, name, ["--build-arg", f"BASE={_BASE}"])
        out = self._scratch / "out" / f"{image.name}-{tag}"
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(exist_ok=True)
        self._run(["podman", "push", "--quiet", "--format", "v2s2", "--compress", name, f"dir:{out}"])
        # No later build takes layers of it ("--layers=false"): kept, each one would add all of its files once more.
        self._run(["podman", "image", "rm", name])
        return out

    def _build(self, context: Path, name: str, more: Sequence[str]) -> None:
        # Docker's format: OCI's has no health checks. One time stamp, so that equal files make equal layers.
        how = ["--isolation", "chroot", "--network", "host", "--format", "docker", "--timestamp", "0", "--layers=false"]
        self._run(["podman", "build", *how, *more, "--tag", name, str(context)])

    def _run(self, command: list[str], *, fail: bool = True) -> int:
        done = subprocess.run(
            command, env=self._env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode and fail:
            last = (done.stdout + done.stderr).strip().splitlines()[-20:]
            raise BuildFailed(f"{' '.join(command[:2])} failed ({done.returncode}):\n" + "\n".join(last))
        return done.returncode


@transaction.atomic
def owner_ready() -> Tenant:
    """The tenant that owns them: without members, so that no person may change them."""
    none = {"memory_mb": 0, "cpu_millis": 0, "instances": 0, "apps": 0}
    plan, _ = Plan.objects.get_or_create(slug=OWNER, defaults={"name": "The platform's own images", **none})
    tenant, _ = Tenant.objects.get_or_create(slug=OWNER, defaults={"name": "Base images", "plan": plan})
    Quota.objects.get_or_create(
        tenant=tenant,
        defaults={**none, "storage_mb": STORAGE_MB},
    )
    return tenant


def repository_ready(image: BaseImage) -> Repository:
    """Public: every tenant's people and builds may pull it. Raises BuildFailed where an app has its name."""
    owner = owner_ready()
    found, _ = Repository.objects.get_or_create(name=image.repository, defaults={"tenant": owner, "is_public": True})
    if found.tenant_id != owner.pk:
        raise BuildFailed(f"{image.repository} is a tenant's already")
    return found


def push(image: BaseImage, tag: str, laid_out: Path) -> str:
    """Push what ``Builder.image`` laid out. Returns its digest. Raises RegistryUnavailable, PushRefused."""
    repository = repository_ready(image)
    body = (laid_out / "manifest.json").read_bytes()
    manifest = json.loads(body)

    def token() -> str:
        return token_issue(subject=PUSHER, access=[Access(repository.name, ("pull", "push"))]).token

    with Push(repository.name, token) as registry:
        for part in [*manifest["layers"], manifest["config"]]:
            if not registry.has(part["digest"]):
                file = laid_out / str(part["digest"]).partition(":")[2]
                registry.blob(part["digest"], file.stat().st_size, _chunks(file))
        registry.manifest(tag, manifest["mediaType"], body)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    version_pushed(
        repository=repository.name,
        tag=tag,
        digest=digest,
        media_type=manifest["mediaType"],
        pushed_by=PUSHER,
        pushed_at=now(),
    )
    return digest


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def scratch() -> Path:
    return Path(settings.VAR) / "base-images"
