"""One order of a certificate, moved on by a step: begun, answered once every gateway can, and finished.

An authority asks any of our gateways, at once and from several places, and counts what it does not find against us. So
it is not told before all of them have acknowledged the route that has the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.conf import settings
from django.db import transaction

from apps.core.clock import now
from apps.core.leases import held
from apps.deployments.authority_client import AcmeAuthority, Authority, AuthorityError, NotYet, account_key
from apps.deployments.models import AcmeAccount, App, Certificate
from apps.deployments.pem import CertificateInvalid, bundle_read
from apps.deployments.selectors.certificates import orders_lately
from apps.deployments.selectors.names import app_of_name
from apps.deployments.services.certificates import order_answered, order_begun, order_done, order_failed
from apps.deployments.services.routing import served_by_all

log = structlog.get_logger(__name__)

#: After the first, second... failure; the last for all further ones. Let's Encrypt allows five in an hour for a name.
BACKOFF_S = (60, 900, 3600, 4 * 3600, 24 * 3600)
MOST_ATTEMPTS = 8
LIMITED_S = 4 * 3600.0
#: Whoever comes beyond the platform's own limit waits so long.
CROWDED_S = 300.0
AWAY_S = 120.0
Make = Callable[[], Authority]
Status = Certificate.Status


def reconcile_certificate(pk: int, make: Make | None = None) -> None:
    """Move the order on as far as it goes now."""
    if not settings.ACME_DIRECTORY_URL and make is None:
        return
    with held(Certificate, pk) as mine:
        row = Certificate.objects.filter(pk=pk, status__in=Certificate.OPEN).first() if mine else None
        if row is None:
            return
        try:
            if row.status == Status.WAITING:
                _begin(row, make or authority)
            else:
                _prove(row, make or authority)
        except AuthorityError as error:
            log.warning("order_failed", certificate=pk, kind=error.kind, code=error.code)
            _failed(row, error)


def authority() -> Authority:
    """With the platform's account, which is made and registered when it is first needed. Raises AuthorityError."""
    directory = settings.ACME_DIRECTORY_URL
    with transaction.atomic():
        account, _ = AcmeAccount.objects.get_or_create(directory=directory, defaults={"key": account_key()})
    made = AcmeAuthority(directory=directory, key=account.key, account=account.uri, ca=settings.ACME_CA)
    if not account.uri:
        # Twice at once is one account: it is known by its key.
        AcmeAccount.objects.filter(pk=account.pk).update(uri=made.register(settings.ACME_EMAIL))
    return made


def _begin(row: Certificate, make: Make) -> None:
    if row.retry_at is not None and row.retry_at > now():
        return None
    if row.tenant_id is None or app_of_name(row.tenant_id, row.name) is None:
        return _lost(row)
    if orders_lately() >= settings.ACME_ORDERS_PER_HOUR:
        words = "Many certificates are ordered at the moment; this one waits for its turn."
        order_failed(pk=row.pk, code="certificates.waits", detail=words, retry_s=CROWDED_S, counts=False)
        return None
    order, asked = make().begin([row.name])
    challenges = []
    for one in asked:
        app_id = app_of_name(row.tenant_id, one.name)
        if app_id is None:
            return _lost(row)
        challenges.append((app_id, one.token, one.answer))
    order_begun(pk=row.pk, order=order, challenges=challenges)
    return None


def _prove(row: Certificate, make: Make) -> None:
    if row.deadline_at is not None and row.deadline_at <= now():
        words = "The order was not finished in time." if row.order.get("answered") else "The gateways did not follow."
        order_failed(pk=row.pk, code="certificates.too_late", detail=words, retry_s=_backoff(row))
        return
    if not row.order.get("answered"):
        if not _gateways_answer(row):
            return
        make().answer(row.order)
        order_answered(row=row)
    try:
        chain, key = make().finish(row.order)
    except NotYet:
        return
    try:
        bundle = bundle_read(chain, key)
    except CertificateInvalid as error:
        raise AuthorityError("refused", "bad_certificate", error.detail) from error
    if row.name not in bundle.names:
        raise AuthorityError("refused", "bad_certificate", "The authority made it for another name.")
    order_done(pk=row.pk, bundle=bundle)


def _gateways_answer(row: Certificate) -> bool:
    """Whether every gateway has the routes with our answers."""
    for app_id, route in row.challenges.values_list("app_id", "route"):
        app = App.objects.filter(pk=app_id).only("route_published", "route_epoch", "route_zxid").first()
        if app is None or app.route_published < route:
            return False
        if not served_by_all(epoch=app.route_epoch, zxid=app.route_zxid):
            return False
    return True


def _lost(row: Certificate) -> None:
    words = "The name leads to no app of the tenant any more."
    order_failed(pk=row.pk, code="certificates.name_lost", detail=words, retry_s=None)


def _backoff(row: Certificate) -> float | None:
    if row.attempts + 1 >= MOST_ATTEMPTS:
        return None
    return float(BACKOFF_S[min(row.attempts, len(BACKOFF_S) - 1)])


def _failed(row: Certificate, error: AuthorityError) -> None:
    code = f"certificates.{error.code}"
    if error.code == "account_does_not_exist":
        # It is registered anew: by its key the authority knows it, if it knows it at all.
        AcmeAccount.objects.filter(directory=settings.ACME_DIRECTORY_URL).update(uri="")
    if error.kind == "away":
        order_failed(pk=row.pk, code=code, detail=error.detail, retry_s=AWAY_S, counts=False)
    elif error.kind == "limited":
        order_failed(pk=row.pk, code=code, detail=error.detail, retry_s=LIMITED_S, counts=False)
    else:
        retry_s = None if error.kind == "final" else _backoff(row)
        order_failed(pk=row.pk, code=code, detail=error.detail, retry_s=retry_s)
