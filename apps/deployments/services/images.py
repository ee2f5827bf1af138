"""Whether an image can run here at all: what it is, and for which platforms, against what the hosts are.

A version that was not read from the registry yet may be anything. It is accepted, and any host may be chosen for it;
once it was read, an instance that can't run where it is ends before its container is made. Asking the registry in the
middle of a deploy would keep the asker, and a transaction, waiting for it.
"""

from __future__ import annotations

from functools import lru_cache

from django.db.models import F, Q

from apps.core.errors import Conflict
from apps.deployments.models import App
from apps.hosts.models import Host
from apps.hosts.selectors import hosts_of
from apps.registry.models import Manifest, Part, Version

#: Why an instance ended.
NOT_AN_IMAGE = "image.not_an_image"
OTHER_PLATFORM = "image.other_platform"

Platforms = frozenset[tuple[str, str]]


class NotAnImage(Conflict):
    """A chart, a signature or the like."""

    code = "versions.not_an_image"


class WrongPlatform(Conflict):
    """``platforms`` are the image's, ``hosts`` what there is."""

    code = "versions.wrong_platform"


class Unknown(Exception):
    """Not read yet."""


def platforms_of(version_id: int | None) -> Platforms:
    """Operating systems and architectures that the version is for; empty where that is not known."""
    if version_id is None:
        return frozenset()
    try:
        return _runs_on(known(version_id)[1])
    except Unknown:
        return frozenset()


@lru_cache(maxsize=2000)
def known(version_id: int) -> tuple[str, Platforms]:
    """Kind and platforms. Kept for good: what a digest names never changes. Raises Unknown, which is not kept."""
    manifest = Manifest.objects.filter(
        repository__versions=version_id, digest=F("repository__versions__digest")
    ).first()
    if manifest is None or manifest.kind == Manifest.Kind.UNKNOWN:
        raise Unknown
    inside = manifest.parts.filter(kind=Part.Kind.MANIFEST).values("digest")
    if Manifest.objects.filter(
        repository_id=manifest.repository_id, digest__in=inside, kind=Manifest.Kind.UNKNOWN
    ).exists():
        # One of its images may be for yet another platform.
        raise Unknown
    return manifest.kind, frozenset((one["os"], one["architecture"]) for one in manifest.platforms)


def image_fits(*, app: App, version: Version) -> None:
    """Raises NotAnImage, and WrongPlatform where none of the hosts that the tenant may have could run it."""
    try:
        kind, platforms = known(version.pk)
    except Unknown:
        return
    if kind == Manifest.Kind.ARTIFACT:
        raise NotAnImage(f"{app.slug}:{version.tag} is no image that a container could be made of. Pick another one.")
    if not platforms:
        return
    hosts = hosts_of(app.cluster_id).filter(Q(dedicated_to=None) | Q(dedicated_to=app.tenant_id))
    there = set(hosts.order_by().values_list("os", "architecture").distinct())
    # No host at all is another matter, which placement tells of.
    fit = _runs_on(platforms)
    if there and not any(not os or (os, architecture) in fit for os, architecture in there):
        its, theirs = _words(platforms), _words(there)
        raise WrongPlatform(
            f"{app.slug}:{version.tag} is for {', '.join(its)}, and the hosts are {', '.join(theirs)}. "
            f"Build it with --platform {theirs[0]}, and push it anew.",
            platforms=its,
            hosts=theirs,
        )


def platforms_there(app: App) -> list[str]:
    """Of the hosts that the tenant may have ("linux/amd64"); empty where none has said yet."""
    hosts = hosts_of(app.cluster_id).filter(Q(dedicated_to=None) | Q(dedicated_to=app.tenant_id)).exclude(os="")
    return _words(set(hosts.order_by().values_list("os", "architecture").distinct()))


def unfit(version_id: int, host: Host) -> tuple[str, str] | None:
    """Code and reason why the host can't run the version; None where it can, or nobody knows."""
    try:
        kind, platforms = known(version_id)
    except Unknown:
        return None
    if kind == Manifest.Kind.ARTIFACT:
        return NOT_AN_IMAGE, "What was pushed is no image that a container could be made of."
    if platforms and host.os and (host.os, host.architecture) not in _runs_on(platforms):
        its = ", ".join(_words(platforms))
        return OTHER_PLATFORM, f"The image is for {its}, and its host is {host.os}/{host.architecture}."
    return None


#: What machines run beside their own: containerd, platforms/compare.go ("Only").
_ALSO = {"386": "amd64", "arm": "arm64"}


def _runs_on(platforms: Platforms) -> Platforms:
    """The machines that an image for these platforms runs on."""
    return platforms | {(os, _ALSO[architecture]) for os, architecture in platforms if architecture in _ALSO}


def _words(platforms: Platforms | set[tuple[str, str]]) -> list[str]:
    return sorted(f"{os}/{architecture}" for os, architecture in platforms)
