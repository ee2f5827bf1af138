"""A tenant's credentials for registries of others. Passwords are written, never read back."""

from __future__ import annotations

from django.db import IntegrityError, transaction

from apps.core import events
from apps.core.clock import now
from apps.core.errors import Conflict, Invalid, Missing
from apps.registry.models import ExternalRegistry
from apps.registry.references import Credential, host_parsed
from apps.tenants.models import Quota, Tenant, User
from apps.tenants.permissions import require_manager
from apps.tenants.services.deleting import not_deleting
from apps.tenants.services.tenants import check_slug

#: Of one tenant.
MOST = 20


class ExternalInvalid(Invalid):
    code = "external.invalid"


class ExternalTaken(Conflict):
    code = "external.taken"


class ExternalMissing(Missing):
    code = "external.not_found"


def _text(name: str, text: str, most: int) -> str:
    """Of a user name or password: what can stand in a header. A colon would end the name (RFC 7617)."""
    if not 1 <= len(text) <= most or not text.isprintable() or (name == "username" and ":" in text):
        raise ExternalInvalid(f"{name} must be one line of 1 to {most} characters, a user name without a colon.")
    return text


def external_create(
    *, tenant: Tenant, name: str, host: str, username: str, password: str, by: User
) -> ExternalRegistry:
    """Raises Denied, SlugInvalid, ReferenceInvalid, ExternalInvalid, ExternalTaken, TenantDeleting."""
    require_manager(by, tenant)
    check_slug(name)
    host = host_parsed(host)
    username, password = _text("username", username, 255), _text("password", password, 8000)
    with transaction.atomic():
        not_deleting(Quota.objects.select_for_update().select_related("tenant").get(tenant=tenant).tenant)
        if tenant.external_registries.count() >= MOST:
            raise ExternalInvalid(f"A tenant may have {MOST} registries. Delete one first.")
        try:
            with transaction.atomic():
                made = ExternalRegistry.objects.create(
                    tenant=tenant, name=name, host=host, username=username, password=password, created_by=by.username
                )
        except IntegrityError:
            raise ExternalTaken("There is a registry of this name, or one for this host, already.") from None
        _told("external.created", f"Registry {name} ({host}) was added.", made, by)
    return made


def external_change(*, tenant: Tenant, name: str, username: str | None, password: str | None, by: User) -> None:
    """Another user or password for it. Raises Denied, ExternalMissing, ExternalInvalid."""
    require_manager(by, tenant)
    with transaction.atomic():
        found = _locked(tenant, name)
        if username is not None:
            found.username = _text("username", username, 255)
        if password is not None:
            found.password = _text("password", password, 8000)
        found.tested_at, found.test_code = None, ""
        found.save(update_fields=["username", "password", "tested_at", "test_code"])
        _told("external.changed", f"The sign-in for registry {name} was changed.", found, by)


def external_delete(*, tenant: Tenant, name: str, by: User) -> None:
    """Copies that are under way and need it fail. Raises Denied, ExternalMissing."""
    require_manager(by, tenant)
    with transaction.atomic():
        found = _locked(tenant, name)
        _told("external.deleted", f"Registry {name} ({found.host}) was deleted.", found, by)
        found.delete()


def external_tested(*, registry: ExternalRegistry, code: str) -> None:
    """Note what came of trying it, unless it was changed meanwhile: then that is another's answer."""
    same = ExternalRegistry.objects.filter(
        pk=registry.pk, tested_at=registry.tested_at, username=registry.username, host=registry.host
    )
    same.update(tested_at=now(), test_code=code)


def external_named(tenant: Tenant, name: str) -> ExternalRegistry:
    found = ExternalRegistry.objects.filter(tenant=tenant, name=name).first()
    if found is None:
        raise ExternalMissing("The tenant has no registry of this name.")
    return found


def credential_for(*, tenant_id: int, host: str) -> Credential | None:
    """The tenant's own for that host; None: it is asked without one."""
    found = ExternalRegistry.objects.filter(tenant_id=tenant_id, host=host).first()
    return Credential(found.username, found.password) if found else None


def _locked(tenant: Tenant, name: str) -> ExternalRegistry:
    found = ExternalRegistry.objects.select_for_update().filter(tenant=tenant, name=name).first()
    if found is None:
        raise ExternalMissing("The tenant has no registry of this name.")
    return found


def _told(code: str, words: str, registry: ExternalRegistry, by: User) -> None:
    events.record(code, words, tenant_id=registry.tenant_id, actor=by.username, registry=registry.name)
