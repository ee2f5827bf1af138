"""How an image gets here: commands for each client, an upload for who has none, and what is expected of an image."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from apps.deployments.models import App
from apps.deployments.selectors import app_visible_to, events_of, versions_of_app
from apps.deployments.services.releases import base_of
from apps.registry.models import Import, Upload
from apps.registry.models.repositories import TAG
from apps.registry.selectors import uploads_of
from apps.registry.services.imports import imports_of
from apps.tenants.models import Role
from apps.tenants.selectors import memberships_of
from portal.web.dockerfiles import DOCKERFILES
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import Rights
from portal.web.texts import CODES, speaks_english

VERSIONS_SHOWN = 5
UPLOADS_SHOWN = 5
HELPERS_SHOWN = 5
MIB = 1 << 20
#: The version in the examples.
TAG_SHOWN = "1.0"


def clients(image: str, username: str) -> list[dict[str, Any]]:
    """Of each client its name and its steps: an id for the page, what the command does, the command."""
    registry = image.partition("/")[0]
    sign_in = _("Sign in; the password is an API token.")
    push = _("Push it. It shows under Versions within seconds.")
    by_name = {
        name: (
            (sign_in, f"{name} login {registry} -u {username}"),
            (_("Name your image for this app."), f"{name} tag my-image {image}"),
            (push, f"{name} push {image}"),
        )
        for name in ("docker", "podman")
    }
    by_name["buildah"] = (
        (sign_in, f"buildah login -u {username} {registry}"),
        (_("Build it from the Dockerfile here."), f"buildah build -t {image} ."),
        (push, f"buildah push {image}"),
    )
    by_name["skopeo"] = (
        (sign_in, f"skopeo login {registry} -u {username}"),
        (_("Copy it from another registry, for all platforms."), f"skopeo copy --all docker://SOURCE docker://{image}"),
        (_("Or from an archive that docker save wrote."), f"skopeo copy docker-archive:image.tar docker://{image}"),
    )
    return [
        {"name": name, "steps": [(f"{name}-{number}", *step) for number, step in enumerate(steps, 1)]}
        for name, steps in by_name.items()
    ]


def _live(app: App, rights: Rights) -> dict[str, Any]:
    """What changes by itself."""
    versions = list(versions_of_app(app)[:VERSIONS_SHOWN])
    return {
        "app": app,
        "rights": rights,
        "versions": versions,
        "uploads": [_row(one) for one in uploads_of(app.slug)[:UPLOADS_SHOWN]],
        "imports": [_import_row(one) for one in imports_of(app.slug)[:UPLOADS_SHOWN]],
    }


def _row(upload: Upload) -> dict[str, Any]:
    """``done`` of ``total`` bytes; a total of 0 is not known."""
    sending = upload.status == Upload.Status.RECEIVING
    done, total = (
        (upload.received_bytes, upload.declared_bytes or 0) if sending else (upload.pushed_bytes, upload.image_bytes)
    )
    return {
        "upload": upload,
        "done": done // MIB,
        "total": total // MIB,
        "open": upload.status in Upload.OPEN,
    }


def _import_row(one: Import) -> dict[str, Any]:
    return {
        "one": one,
        "done": one.copied_bytes // MIB,
        "total": one.total_bytes // MIB,
        "open": one.status in Import.OPEN,
    }


@require_safe
@member_page
def push_page(request: MemberRequest, slug: str) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    rights = Rights.of(request.user, app)
    release = base_of(app) if rights.push else None
    image = f"{settings.REGISTRY_PUBLIC}/{app.slug}:{TAG_SHOWN}"
    context = {
        **_live(app, rights),
        # What happens from now on.
        "after": events_of(app).values_list("pk", flat=True).first() or 0,
        "registry": settings.REGISTRY_PUBLIC,
        "image": image,
        "clients": clients(image, request.user.username) if rights.push else [],
        "dockerfiles": DOCKERFILES,
        "release": release,
        "port": release.container_port if release else 8080,
        "health_path": release.health_path if release else "/_ping",
        "ready_s": settings.READY_DEADLINE_S,
        "helpers": _helpers(app) if rights.role and not rights.push else [],
        "curl": f'curl -T image.tar -H "Authorization: Bearer $TOKEN" '
        f'"{settings.PORTAL_URL}/api/v1/apps/{app.slug}/uploads?tag={TAG_SHOWN}"',
        "most_mb": settings.UPLOAD_MAX_MB,
        "most_bytes": settings.UPLOAD_MAX_MB * MIB,
        "tag_pattern": TAG.removeprefix(r"\A").removesuffix(r"\Z").replace("-]", r"\-]"),
        # The API speaks English; readers of another language get our words for its codes.
        "words": {} if speaks_english() else {code: CODES[code] for code in _ANSWERS},
    }
    return render(request, "web/push.html", context)


#: What sending an archive may be answered with.
_ANSWERS = (
    "apps.not_found",
    "permission.denied",
    "quota.exceeded",
    "uploads.expired",
    "uploads.interrupted",
    "uploads.no_room",
    "uploads.not_allowed",
    "uploads.not_an_archive",
    "uploads.tag_invalid",
    "uploads.too_large",
    "uploads.too_many",
)


def _helpers(app: App) -> list[str]:
    """Who may give a member another role: for members, who see each other anyway."""
    rows = memberships_of(app.tenant).filter(role__in=(Role.OWNER, Role.ADMIN), user__is_active=True)
    return [row.user.username for row in rows[:HELPERS_SHOWN]]


@require_safe
@member_page
def push_live(request: MemberRequest, slug: str) -> HttpResponse:
    """What has arrived, and what is on its way."""
    app = app_visible_to(request.user, slug)
    return render(request, "web/parts/push_live.html", _live(app, Rights.of(request.user, app)))
