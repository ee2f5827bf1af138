"""Who may do what. The only place that decides it, and the only user of django-guardian.

A role gives actions on everything of its tenant; a grant (guardian's object permission) gives one action on one
app to one person. Both are asked here and nowhere else.
"""

from __future__ import annotations

import enum
from typing import Protocol, TypeGuard, TypeVar

from django.apps import apps as installed
from django.contrib.auth.models import AnonymousUser
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model, Q, QuerySet
from guardian.models import GroupObjectPermission, UserObjectPermission
from guardian.shortcuts import get_objects_for_user

from apps.core.errors import Denied
from apps.tenants.models import Membership, Role, Tenant, User

Viewer = User | AnonymousUser
M = TypeVar("M", bound=Model)


class Action(enum.StrEnum):
    """What can be done with an app; the values are the names of Django permissions on the App model."""

    VIEW = "view_app"
    PULL = "pull_app"
    PUSH = "push_app"
    DEPLOY = "deploy_app"
    MANAGE = "manage_app"


_ROLE_ACTIONS: dict[str, frozenset[Action]] = {
    Role.OWNER: frozenset(Action),
    Role.ADMIN: frozenset(Action),
    Role.DEVELOPER: frozenset({Action.VIEW, Action.PULL, Action.PUSH, Action.DEPLOY}),
    Role.VIEWER: frozenset({Action.VIEW, Action.PULL}),
}
_APP_CREATORS = frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER})
_TENANT_MANAGERS = frozenset({Role.OWNER, Role.ADMIN})


class Owned(Protocol):
    """Anything that belongs to a tenant."""

    tenant_id: int


def _active(viewer: Viewer) -> TypeGuard[User]:
    return bool(viewer.is_authenticated and viewer.is_active)


def person(viewer: Viewer) -> User:
    """The viewer as the user they are. Raises Denied for a signed-out or disabled one."""
    if not _active(viewer):
        raise Denied("Sign in first.")
    return viewer


def operates(viewer: Viewer, permission: str) -> bool:
    """Whether the viewer is staff with this permission of Django's, as the admin asks it ("hosts.view_host")."""
    return _active(viewer) and viewer.is_staff and viewer.has_perm(permission)


def roles_with(action: Action) -> list[str]:
    return [role for role, actions in _ROLE_ACTIONS.items() if action in actions]


def tenants_of(viewer: Viewer) -> QuerySet[Tenant]:
    """The active tenants that the viewer is a member of; none for a signed-out or disabled user."""
    if not _active(viewer):
        return Tenant.objects.none()
    return Tenant.objects.filter(memberships__user_id=viewer.pk, is_active=True)


def role_in(viewer: Viewer, tenant_id: int) -> str | None:
    if not _active(viewer):
        return None
    found = Membership.objects.filter(user_id=viewer.pk, tenant_id=tenant_id, tenant__is_active=True)
    return found.values_list("role", flat=True).first()


def scoped(viewer: Viewer, queryset: QuerySet[M], action: Action = Action.VIEW) -> QuerySet[M]:
    """The rows of ``queryset`` (objects with a ``tenant``) on which the viewer may do ``action``. Fails closed."""
    if not _active(viewer):
        return queryset.none()
    by_role = Membership.objects.filter(user_id=viewer.pk, role__in=roles_with(action), tenant__is_active=True).values(
        "tenant_id"
    )
    granted = get_objects_for_user(
        viewer, str(action), klass=queryset.model, accept_global_perms=False, with_superuser=False
    )
    return queryset.filter(Q(tenant__in=by_role) | Q(pk__in=granted.values("pk"), tenant__is_active=True))


def allows(viewer: Viewer, action: Action, owned: Owned) -> bool:
    """Whether the viewer may do this to this app."""
    role = role_in(viewer, owned.tenant_id)
    if role is not None and action in _ROLE_ACTIONS[role]:
        return True
    if not _active(viewer) or not isinstance(owned, Model):
        return False
    return scoped(viewer, type(owned)._default_manager.filter(pk=owned.pk), action).exists()


def allows_images(viewer: Viewer, action: Action, *, tenant_id: int, slug: str) -> bool:
    """Whether the viewer may do this to the images of the app ``slug`` of that tenant, whose repository has its name.

    Grants are on apps, and their model is above us: it is found by its name.
    """
    role = role_in(viewer, tenant_id)
    if role is not None and action in _ROLE_ACTIONS[role]:
        return True
    app_model = installed.get_model("deployments", "App")
    named = app_model._default_manager.filter(slug=slug, tenant_id=tenant_id)
    return scoped(viewer, named, action).exists()


def require_images(viewer: Viewer, action: Action, *, tenant_id: int, slug: str) -> None:
    """Raises Denied. For apps that the viewer was already found to see."""
    if not allows_images(viewer, action, tenant_id=tenant_id, slug=slug):
        raise Denied(f"Your role does not allow this ({action}). Ask an owner or admin of the tenant.")


def require(viewer: Viewer, action: Action, owned: Owned) -> None:
    """Raises Denied. For objects that the viewer was already found to see; strangers never come this far."""
    if not allows(viewer, action, owned):
        raise Denied(f"Your role does not allow this ({action}). Ask an owner or admin of the tenant.")


def require_owner(viewer: Viewer, tenant: Tenant) -> None:
    """Raises Denied. For tenants that the viewer is a member of."""
    if role_in(viewer, tenant.pk) != Role.OWNER:
        raise Denied("Only an owner of the tenant may do this.")


def manages_tenant(viewer: Viewer, tenant: Tenant) -> bool:
    return role_in(viewer, tenant.pk) in _TENANT_MANAGERS


def require_manager(viewer: Viewer, tenant: Tenant) -> None:
    """Raises Denied. For tenants that the viewer is a member of."""
    if not manages_tenant(viewer, tenant):
        raise Denied("Only an owner or admin of the tenant may do this.")


def grants_end(row: Model) -> None:
    """Nobody has a grant on this object any more: part of the transaction that deletes it."""
    about = {"content_type": ContentType.objects.get_for_model(type(row)), "object_pk": str(row.pk)}
    UserObjectPermission.objects.filter(**about).delete()
    GroupObjectPermission.objects.filter(**about).delete()


def may_create_apps(viewer: Viewer, tenant: Tenant) -> bool:
    return role_in(viewer, tenant.pk) in _APP_CREATORS


def role_allows(role: str, action: Action) -> bool:
    return action in _ROLE_ACTIONS[role]
