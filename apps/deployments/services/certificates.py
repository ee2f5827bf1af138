"""Certificates that tenants send or ask for, and the platform's own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F

from apps.core import events, jobs
from apps.core.clock import after, now
from apps.core.errors import Conflict, Invalid, PlatformError
from apps.deployments.models import App, Certificate, Challenge
from apps.deployments.pem import Bundle, bundle_read, names_served
from apps.deployments.selectors.certificates import certificate_of, ending, renewals_due
from apps.deployments.selectors.names import app_of_name, names_held
from apps.deployments.services.apps import route_touch
from apps.tenants.models import Quota, Tenant, User
from apps.tenants.permissions import require_manager
from apps.tenants.services.deleting import not_deleting
from gateway.contract import ContractError, host_name

#: Of one tenant.
MOST = 200
#: Days before its end at which a certificate is warned of. Those that are renewed by themselves are by the first.
WARNINGS = (30, 14, 7, 1)
#: A part of its time after which one is renewed.
RENEW_AFTER = 2 / 3
Status = Certificate.Status


class NameNotHeld(Invalid):
    code = "certificates.name_not_held"


class CertificateTaken(Conflict):
    code = "certificates.taken"


class CertificatesFull(Conflict):
    code = "certificates.too_many"


class OrderingOff(Conflict):
    code = "certificates.ordering_off"


class CertificateBusy(Conflict):
    code = "certificates.busy"


class HttpsOff(PlatformError):
    """No key to publish private keys with."""

    code = "certificates.https_off"


def certificate_upload(*, tenant: Tenant, chain: str, key: str, by: User) -> Certificate:
    """Raises Denied, CertificateInvalid, NameNotHeld, CertificatesFull, CertificateTaken, TenantDeleting, HttpsOff."""
    require_manager(by, tenant)
    _https()
    bundle = bundle_read(chain, key)
    if not names_served(bundle.names, names_held(tenant.pk)):
        raise NameNotHeld(
            "It is for no domain of the tenant. Add the domain to an app first, and prove that it is yours.",
            names=sorted(bundle.names)[:20],
        )
    with transaction.atomic():
        _room(tenant)
        if Certificate.objects.filter(tenant=tenant, fingerprint=bundle.fingerprint).exists():
            raise CertificateTaken("This certificate is there already.")
        made = Certificate.objects.create(
            tenant=tenant,
            source=Certificate.Source.UPLOADED,
            status=Status.READY,
            status_since=now(),
            created_by=by.username,
            **_content(bundle),
        )
        _touch(made.pk)
        _told("certificate.uploaded", "A certificate was uploaded.", made, by.username)
    return made


def certificate_order(*, tenant: Tenant, name: str, by: User) -> Certificate:
    """Have the authority make one, and keep it renewed. One for each name.

    Raises Denied, OrderingOff, NameNotHeld, CertificatesFull, CertificateTaken, TenantDeleting, HttpsOff.
    """
    require_manager(by, tenant)
    _https()
    if not settings.ACME_DIRECTORY_URL:
        raise OrderingOff("This platform orders no certificates. Upload one.")
    try:
        name = host_name(name)
    except ContractError:
        raise NameNotHeld("Give one host name. For a wildcard, upload a certificate.") from None
    if app_of_name(tenant.pk, name) is None:
        raise NameNotHeld("It is no domain of the tenant. Add it to an app first, and prove that it is yours.")
    with transaction.atomic():
        _room(tenant)
        try:
            with transaction.atomic():
                made = Certificate.objects.create(
                    tenant=tenant,
                    source=Certificate.Source.ACME,
                    name=name,
                    names=[name],
                    status=Status.WAITING,
                    status_since=now(),
                    created_by=by.username,
                )
        except IntegrityError:
            raise CertificateTaken("There is an order for this name already.") from None
        _told("certificate.ordered", f"A certificate for {name} was ordered.", made, by.username)
        jobs.enqueue(jobs.ORDER_CERTIFICATE, made.pk)
    return made


def certificate_retry(*, tenant: Tenant, uid: UUID, by: User) -> Certificate:
    """Try an order again at once that waits or has failed. Raises Denied, CertificateMissing, CertificateBusy."""
    require_manager(by, tenant)
    found = certificate_of(tenant, uid)
    rows = Certificate.objects.filter(pk=found.pk, source=Certificate.Source.ACME)
    with transaction.atomic():
        # An authority shuts out those that fail too often: by hand it is tried anew once a minute at most.
        rested = rows.filter(status__in=(Status.WAITING, Status.FAILED), status_since__lte=now() - timedelta(minutes=1))
        if not rested.update(status=Status.WAITING, status_since=now(), retry_at=None, attempts=0):
            raise CertificateBusy("It is being worked on, or was tried a moment ago.")
        jobs.enqueue(jobs.ORDER_CERTIFICATE, found.pk)
    found.refresh_from_db(fields=["status", "status_since", "retry_at", "attempts"])
    return found


def certificate_delete(*, tenant: Tenant, uid: UUID, by: User) -> None:
    """Its names show no certificate of theirs any more. Raises Denied, CertificateMissing."""
    require_manager(by, tenant)
    found = certificate_of(tenant, uid)
    with transaction.atomic():
        _forget(found.pk)
        _told("certificate.deleted", "A certificate was deleted.", found, by.username)
        Certificate.objects.filter(pk=found.pk).delete()
        jobs.enqueue(jobs.PUBLISH_CERTIFICATES)


def certificate_of_platform(*, chain: str, key: str) -> Certificate:
    """Take it as the platform's own, in place of the one before. Raises CertificateInvalid."""
    bundle = bundle_read(chain, key)
    with transaction.atomic():
        found, made = Certificate.objects.select_for_update().get_or_create(
            source=Certificate.Source.PLATFORM, defaults={"status": Status.READY, "status_since": now()}
        )
        if made or found.fingerprint != bundle.fingerprint:
            Certificate.objects.filter(pk=found.pk).update(**_content(bundle))
            _touch(found.pk)
            found.refresh_from_db()
            _told("certificate.platform", "The platform's certificate was changed.", found, "")
    return found


def names_changed(*, tenant_id: int) -> None:
    """The tenant has other names than it had: part of the transaction that changes them."""
    Certificate.objects.filter(tenant_id=tenant_id).exclude(chain="").update(wanted=F("wanted") + 1)
    jobs.enqueue(jobs.PUBLISH_CERTIFICATES)


def certificate_published(*, pk: int, wanted: int) -> None:
    Certificate.objects.filter(pk=pk, published__lt=wanted).update(published=wanted)


# Orders -------------------------------------------------------------------------------------------------------


def order_begun(*, pk: int, order: dict[str, Any], challenges: list[tuple[int, str, str]]) -> bool:
    """``challenges``: app, token, answer. From now on the gateways are to answer them. False where it is too late."""
    with transaction.atomic():
        moved = Certificate.objects.filter(pk=pk, status=Status.WAITING).update(
            status=Status.PROVING,
            status_since=now(),
            deadline_at=after(settings.ACME_ORDER_S),
            retry_at=None,
            ordered_at=now(),
        )
        if not moved:
            return False
        row = Certificate.objects.get(pk=pk)
        row.order = order
        row.save(update_fields=["order"])
        for app_id, token, answer in sorted(challenges):
            route_touch(app_id=app_id)
            route = App.objects.values_list("route_wanted", flat=True).get(pk=app_id)
            Challenge.objects.create(certificate_id=pk, app_id=app_id, token=token, answer=answer, route=route)
    return True


def order_answered(*, row: Certificate) -> None:
    """The authority was told that our answers are there."""
    row.order = {**row.order, "answered": True}
    row.save(update_fields=["order"])


def order_done(*, pk: int, bundle: Bundle) -> bool:
    """False where it was given up meanwhile."""
    with transaction.atomic():
        _forget(pk)
        life = bundle.not_after - bundle.not_before
        moved = Certificate.objects.filter(pk=pk, status=Status.PROVING).update(
            status=Status.READY,
            status_since=now(),
            deadline_at=None,
            retry_at=None,
            attempts=0,
            code="",
            detail="",
            renew_at=bundle.not_before + life * RENEW_AFTER,
            **_content(bundle),
        )
        if moved:
            _touch(pk)
            found = Certificate.objects.get(pk=pk)
            found.order = {}
            found.save(update_fields=["order"])
            _told("certificate.issued", f"The certificate for {found.name} is there.", found, "")
    return bool(moved)


def order_failed(*, pk: int, code: str, detail: str, retry_s: float | None, counts: bool = True) -> None:
    """``retry_s``: when it is tried again; None: it is not, unless there is a certificate to be renewed: daily then."""
    with transaction.atomic():
        _forget(pk)
        row = Certificate.objects.select_for_update().filter(pk=pk, status__in=Certificate.OPEN).first()
        if row is None:
            return
        final = retry_s is None
        again = settings.ACME_DAY_S if retry_s is None else retry_s
        row.status, row.status_since = Status.FAILED if final else Status.WAITING, now()
        row.retry_at, row.deadline_at, row.order = after(again), None, {}
        row.attempts += int(counts)
        row.code, row.detail = code, detail[:500]
        row.save()
        if final or row.attempts == 1:
            event = "certificate.failed" if final else "certificate.delayed"
            words = f"No certificate for {row.name}: {row.detail[:200]}"
            _told(event, words, row, "", level="warning", reason=code, next_at=str(row.retry_at))


def renewals_begin() -> int:
    count = 0
    for row in renewals_due()[:200]:
        rows = Certificate.objects.filter(pk=row.pk, status=row.status)
        count += rows.update(status=Status.WAITING, status_since=now(), retry_at=None, attempts=0)
    return count


def expiries_tell() -> int:
    """An event for each certificate that comes near its end, once at each of WARNINGS. Returns how many."""
    told = 0
    for row in ending(WARNINGS[0]):
        if row.not_after is None:
            continue
        left = (row.not_after - now()) / timedelta(days=1)
        days = min(one for one in (*WARNINGS, 0) if left <= one) if left > 0 else 0
        known = row.warned_days if row.warned_days is not None else WARNINGS[0] + 1
        if days >= known or (row.source == Certificate.Source.ACME and days == WARNINGS[0]):
            continue
        with transaction.atomic():
            if not Certificate.objects.filter(pk=row.pk, warned_days=row.warned_days).update(warned_days=days):
                continue
            code = "certificate.ends" if days else "certificate.ended"
            ends = f"ends within {days} days" if days else "has ended"
            words = f"The certificate for {row} {ends}."
            _told(code, words, row, "", level="warning" if days > 1 else "error", days=days)
        told += 1
    return told


# --------------------------------------------------------------------------------------------------------------


def _https() -> None:
    if not settings.GATEWAY_CERTIFICATE_KEYS:
        raise HttpsOff("This platform's gateways serve no HTTPS yet. Ask its operators.")


def _room(tenant: Tenant) -> None:
    not_deleting(Quota.objects.select_for_update().select_related("tenant").get(tenant=tenant).tenant)
    if Certificate.objects.filter(tenant=tenant).count() >= MOST:
        raise CertificatesFull(f"A tenant may have {MOST} certificates. Delete one first.")


def _content(bundle: Bundle) -> dict[str, Any]:
    return {
        "names": sorted(bundle.names),
        "chain": bundle.chain,
        "key": bundle.key,
        "issuer": bundle.issuer,
        "fingerprint": bundle.fingerprint,
        "not_before": bundle.not_before,
        "not_after": bundle.not_after,
        "warned_days": None,
    }


def _touch(pk: int) -> None:
    Certificate.objects.filter(pk=pk).update(wanted=F("wanted") + 1)
    jobs.enqueue(jobs.PUBLISH_CERTIFICATES)


def _forget(pk: int) -> None:
    """The gateways need not answer for it any more."""
    rows = Challenge.objects.filter(certificate_id=pk)
    apps = sorted(set(rows.values_list("app_id", flat=True)))
    rows.delete()
    for app_id in apps:
        route_touch(app_id=app_id)


def _told(code: str, words: str, row: Certificate, by: str, level: str = "info", **detail: object) -> None:
    names = [row.name] if row.name else row.names[:10]
    about: dict[str, Any] = {"names": names, **detail}
    events.record(code, words, level=level, tenant_id=row.tenant_id, actor=by, **about)
