"""An app's own host names: asked for, changed and given back. Whether one is proven is for ``services.proofs``."""

from __future__ import annotations

import secrets
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.core.errors import Conflict
from apps.deployments import names
from apps.deployments.models import App, Domain, DomainName, FormerName
from apps.deployments.names import DomainInvalid
from apps.deployments.selectors.domains import PROVEN, DomainMissing, colliding, own_hosts, platform_address
from apps.deployments.services.apps import app_locked, not_going, route_touch
from apps.deployments.services.certificates import names_changed
from apps.tenants.models import Quota, User
from apps.tenants.permissions import Action, require
from apps.tenants.services.tenants import QuotaExceeded

#: Of one name, each to an app of the tenant's.
PREFIXES_OF_NAME = 20
#: Somebody who asks for a look gets one, but not more often. Seconds.
CHECK_REST_S = 10
#: A name that another tenant asks for is looked at again, once its last look is so old. Seconds.
HELD_REST_S = 600


class DomainHeld(Conflict):
    code = "domains.held"


class DomainExists(Conflict):
    code = "domains.exists"


class DomainOfPlatform(Conflict):
    code = "domains.of_platform"


def domain_add(*, app: App, name: str, prefix: str = "/", by: User) -> Domain:
    """Ask for a name, or the part of it below ``prefix``. It routes once the tenant has proven the name.

    Raises Denied, AppDeleting, DomainInvalid, DomainReserved, DomainLookalike, DomainHeld, DomainExists, QuotaExceeded.
    """
    require(by, Action.MANAGE, app)
    host, path = names.host_of(name), names.prefix_of(prefix)
    names.own_refused(host, domains=[settings.PLATFORM_DOMAIN], hosts=own_hosts())
    _held_refused(host, app.tenant_id)
    with transaction.atomic():
        not_going(app_locked(app.pk))
        # The quota row's lock makes the counts exact while others add too.
        Quota.objects.select_for_update().get(tenant_id=app.tenant_id)
        claim = _claim(app.tenant_id, host, by.username)
        taken = claim.domains.select_related("app").filter(prefix=path).first()
        if taken is not None:
            raise DomainExists(f"{taken} leads to {taken.app.slug} already. Change that one, or remove it.")
        if claim.domains.count() >= PREFIXES_OF_NAME:
            raise QuotaExceeded(f"A name may have {PREFIXES_OF_NAME} prefixes, and {host} has them.")
        domain = Domain.objects.create(app=app, name=host, prefix=path, held=claim)
        _told("domain.added", f"{domain} was asked for.", app, by, domain)
        if claim.status == PROVEN:
            route_touch(app_id=app.pk)
    return domain


def _held_refused(host: str, tenant_id: int) -> None:
    """A holder whose proof is gone keeps nobody from asking: who proves it gets it."""
    held = list(colliding(host, tenant_id).filter(missing_since=None)[:20])
    if not held:
        return
    stale = [one.pk for one in held if one.checked_at is None or one.checked_at < after(-HELD_REST_S)]
    DomainName.objects.filter(pk__in=stale).update(check_at=now())
    for pk in stale:
        jobs.enqueue(jobs.CHECK_DOMAIN, pk)
    raise DomainHeld(
        f"{host}, or a wildcard that it meets, is another tenant's. If it is yours by now, take that one's records out "
        "of DNS, and ask again in ten minutes."
    )


def _claim(tenant_id: int, host: str, by: str) -> DomainName:
    """The tenant's claim to the name, locked; one that failed begins anew. Raises QuotaExceeded."""
    claim = DomainName.objects.select_for_update(no_key=True).filter(tenant_id=tenant_id, name=host).first()
    if claim is None:
        if DomainName.objects.filter(tenant_id=tenant_id).count() >= settings.DOMAINS_PER_TENANT:
            raise QuotaExceeded(f"The tenant may have {settings.DOMAINS_PER_TENANT} names of its own, and has them.")
        claim = DomainName.objects.create(
            tenant_id=tenant_id,
            name=host,
            token=secrets.token_hex(20),
            created_by=by,
            expires_at=now() + timedelta(days=settings.DOMAIN_PENDING_DAYS),
            check_at=now(),
        )
        jobs.enqueue(jobs.CHECK_DOMAIN, claim.pk)
    elif claim.status == DomainName.Status.FAILED:
        _begin_anew(claim)
    return claim


def _begin_anew(claim: DomainName) -> None:
    DomainName.objects.filter(pk=claim.pk, status=DomainName.Status.FAILED).update(
        status=DomainName.Status.PENDING,
        code="",
        failures=0,
        expires_at=now() + timedelta(days=settings.DOMAIN_PENDING_DAYS),
        check_at=now(),
    )
    jobs.enqueue(jobs.CHECK_DOMAIN, claim.pk)
    claim.refresh_from_db()


@transaction.atomic
def domain_check(*, domain: Domain, by: User) -> Domain:
    """Look for the proof now, and not at the next time. One that failed begins anew.

    Raises Denied, AppDeleting, DomainOfPlatform, DomainMissing, DomainHeld.
    """
    app, claim = _changeable(domain, by)
    if claim.status == DomainName.Status.FAILED:
        if colliding(claim.name, app.tenant_id).filter(missing_since=None).exists():
            raise DomainHeld(f"{claim.name}, or a wildcard that it meets, is another tenant's.")
        _begin_anew(claim)
    elif claim.checked_at is None or claim.checked_at <= after(-CHECK_REST_S):
        DomainName.objects.filter(pk=claim.pk).update(check_at=now())
        jobs.enqueue(jobs.CHECK_DOMAIN, claim.pk)
    domain.refresh_from_db()
    return domain


@transaction.atomic
def domain_change(*, domain: Domain, by: User, app: App | None = None, prefix: str | None = None) -> Domain:
    """Let it lead to another app of the tenant, or be another part of the name.

    Raises Denied, AppDeleting, DomainOfPlatform, DomainMissing, DomainInvalid, DomainExists.
    """
    old = domain.app_id
    target = app or domain.app
    if target.tenant_id != domain.app.tenant_id:
        raise DomainInvalid("A name leads to apps of the tenant that holds it.", field="app")
    require(by, Action.MANAGE, target)
    for pk in sorted({old, target.pk}):
        not_going(app_locked(pk))
    _, claim = _changeable(domain, by)
    path = domain.prefix if prefix is None else names.prefix_of(prefix)
    if (target.pk, path) == (old, domain.prefix):
        return domain
    if claim.domains.filter(prefix=path).exclude(pk=domain.pk).exists():
        raise DomainExists(f"{claim.name} has the prefix {path} already.")
    Domain.objects.filter(pk=domain.pk).update(app=target, prefix=path)
    was, domain = str(domain), Domain.objects.select_related("app__tenant", "held").get(pk=domain.pk)
    for one in {old: domain.app if old == target.pk else App.objects.get(pk=old), target.pk: target}.values():
        _told("domain.changed", f"{was}: it is {domain} now, and leads to {target.slug}.", one, by, domain)
    if claim.status == PROVEN:
        # Whose it becomes first: gateways leave it where it is until the other lets go of it.
        for pk in dict.fromkeys((target.pk, old)):
            route_touch(app_id=pk)
    return domain


@transaction.atomic
def domain_remove(*, domain: Domain, by: User) -> None:
    """Give it back. The name is anybody's again, once nothing of it leads to an app of the tenant.

    Raises Denied, DomainOfPlatform, DomainMissing.
    """
    app, claim = _changeable(domain, by, going=True)
    _told("domain.removed", f"{domain} was removed.", app, by, domain)
    Domain.objects.filter(pk=domain.pk).delete()
    if claim.status == PROVEN:
        route_touch(app_id=app.pk)
    _release(claim)


def _changeable(domain: Domain, by: User, *, going: bool = False) -> tuple[App, DomainName]:
    """Its app, then its claim, both locked: whoever needs both takes them in this order."""
    require(by, Action.MANAGE, domain.app)
    if domain.held_id is None:
        raise DomainOfPlatform("The platform's own address stays with its app.")
    app = app_locked(domain.app_id)
    if not going:
        not_going(app)
    claim = DomainName.objects.select_for_update(no_key=True).filter(pk=domain.held_id).first()
    if claim is None or not Domain.objects.filter(pk=domain.pk).exists():
        raise DomainMissing("It was removed meanwhile.")
    return app, claim


def _release(claim: DomainName) -> None:
    """Part of what took one of its domains away: a claim that leads nowhere ends."""
    if claim.domains.exists():
        return
    if claim.proven_at is not None:
        former_note(claim.name, claim.tenant_id)
        names_changed(tenant_id=claim.tenant_id)
    claim.delete()


def former_note(name: str, tenant_id: int) -> None:
    """From now on the name's pointing here proves it to no other tenant."""
    FormerName.objects.update_or_create(name=name, tenant_id=tenant_id, defaults={"ended_at": now()})


def names_released(*, app: App) -> None:
    """Part of the transaction that erases the app: what leads to it, and claims that then lead nowhere."""
    claims = list(app.domains.exclude(held=None).values_list("held_id", flat=True))
    locked = list(DomainName.objects.select_for_update(no_key=True).filter(pk__in=claims).order_by("pk"))
    app.domains.all().delete()
    for claim in locked:
        _release(claim)
    former_note(platform_address(app), app.tenant_id)


def _told(code: str, message: str, app: App, by: User, domain: Domain) -> None:
    events.record(
        code,
        message,
        tenant_id=app.tenant_id,
        app_id=app.pk,
        actor=by.username,
        name=domain.name,
        prefix=domain.prefix,
    )
