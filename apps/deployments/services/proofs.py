"""What looking for a proof in DNS means for the claim: held, waits, has failed, or lost to another tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from apps.core import events
from apps.core.clock import now
from apps.core.models import Duty, Event
from apps.deployments.models import App, DomainName
from apps.deployments.selectors.domains import PROVEN, colliding, pending_elsewhere
from apps.deployments.services.apps import route_touch
from apps.deployments.services.certificates import names_changed
from apps.deployments.services.domains import former_note

PENDING, FAILED = DomainName.Status.PENDING, DomainName.Status.FAILED
#: After so many looks without a proof, the next comes after so long; then always after the last. Seconds.
RESTS_S = (15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
#: What is held is looked at once a day, and more often while its proof is not seen. Seconds.
HELD_REST_S, UNSEEN_REST_S = 86400, 3600
#: Proofs are written down one after the other, by the lock of this duty's row.
TURN = "domain_proofs"

HELD, LOST, EXPIRED = "domains.held", "domains.lost", "domains.expired"
TXT_NEEDED = "domains.txt_needed"


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in DNS: ``proof`` by which the claim stands, or else the ``code`` that says why not.

    ``is_gone``: DNS said that there is none; otherwise it could not be asked, which says nothing.
    """

    proof: str = ""
    code: str = ""
    is_gone: bool = False


@transaction.atomic
def name_judged(*, pk: int, look: Look, without_proof: Collection[int] = ()) -> str:
    """Write down what was seen of a claim. Returns its status; empty where it is gone.

    ``without_proof``: claims of others that it meets, and of which DNS said at the same time that their proof is gone.
    """
    if look.proof:
        Duty.objects.get_or_create(name=TURN)
        Duty.objects.select_for_update().get(name=TURN)
    # Apps before claims, each in the order of their keys: as whoever changes an app's names does it.
    app_ids = set(App.objects.filter(domains__held__in=[pk, *without_proof]).values_list("pk", flat=True))
    list(App.objects.select_for_update(no_key=True).filter(pk__in=app_ids).order_by("pk").values_list("pk"))
    rows = DomainName.objects.select_for_update(no_key=True).filter(pk__in=[pk, *without_proof]).order_by("pk")
    locked = {claim.pk: claim for claim in rows}
    claim = locked.get(pk)
    if claim is None:
        return ""
    if claim.status == PENDING and look.proof:
        return _proven(claim, look, {key for key in locked if key != pk})
    if claim.status == PENDING:
        return _waits(claim, look.code)
    if claim.status == PROVEN:
        return _seen(claim, look)
    return claim.status


def _proven(claim: DomainName, look: Look, without_proof: set[int]) -> str:
    meets = list(colliding(claim.name, claim.tenant_id))
    if any(one.pk not in without_proof for one in meets):
        return _waits(claim, HELD)
    same = [one for one in meets if one.name == claim.name]
    if same and look.proof != DomainName.Proof.TXT:
        return _waits(claim, TXT_NEEDED)
    for one in same:
        # Its routes go in the same moment in which the other's begin.
        _end(one, PROVEN, LOST, f"{one.name} is another tenant's now, who has proven it; this one's proof was gone.")
        former_note(one.name, one.tenant_id)
        for app_id in _apps(one):
            route_touch(app_id=app_id)
        names_changed(tenant_id=one.tenant_id)
    at = now()
    DomainName.objects.filter(pk=claim.pk, status=PENDING).update(
        status=PROVEN,
        proof=look.proof,
        code="",
        failures=0,
        proven_at=at,
        checked_at=at,
        missing_since=None,
        check_at=at + timedelta(seconds=HELD_REST_S),
    )
    for app_id in _apps(claim):
        route_touch(app_id=app_id)
    names_changed(tenant_id=claim.tenant_id)
    _told(claim, "domain.proven", f"{claim.name} is proven ({look.proof}), and routes.")
    for other in pending_elsewhere(claim.name, claim.tenant_id).filter(domains__isnull=False).distinct():
        DomainName.objects.filter(pk=other.pk, status=PENDING).update(code=HELD)
        _told(other, "domain.held", f"{other.name} was proven by another tenant first.", Event.Level.WARNING)
    return PROVEN


def _waits(claim: DomainName, code: str) -> str:
    at = now()
    if claim.expires_at <= at:
        days = settings.DOMAIN_PENDING_DAYS
        _end(claim, PENDING, EXPIRED, f"{claim.name} was not proven within {days} days. Ask for a look to begin anew.")
        return FAILED
    rest = RESTS_S[min(claim.failures, len(RESTS_S) - 1)]
    DomainName.objects.filter(pk=claim.pk, status=PENDING).update(
        code=code,
        failures=claim.failures + 1,
        checked_at=at,
        check_at=min(at + timedelta(seconds=rest), claim.expires_at),
    )
    return PENDING


def _end(claim: DomainName, status: str, code: str, message: str) -> None:
    DomainName.objects.filter(pk=claim.pk, status=status).update(
        status=FAILED, code=code, checked_at=now(), check_at=None, missing_since=None
    )
    _told(claim, "domain.lost" if code == LOST else "domain.failed", message, Event.Level.WARNING, cause=code)


def _seen(claim: DomainName, look: Look) -> str:
    """Of one that is held. It routes on, whatever is seen: only another tenant's proof ends that."""
    at = now()
    values: dict[str, object] = {"checked_at": at, "code": look.code}
    if look.proof:
        values |= {"proof": look.proof, "failures": 0, "missing_since": None}
        if claim.missing_since is not None:
            _told(claim, "domain.proof_back", f"The proof of {claim.name} is in DNS again.")
    else:
        values |= {"failures": claim.failures + 1}
        if look.is_gone and claim.missing_since is None:
            values |= {"missing_since": at}
            message = f"The proof of {claim.name} is gone from DNS. It routes on, until another tenant proves the name."
            _told(claim, "domain.proof_gone", message, Event.Level.WARNING, cause=look.code)
    rest = HELD_REST_S if look.proof else UNSEEN_REST_S
    DomainName.objects.filter(pk=claim.pk, status=PROVEN).update(check_at=at + timedelta(seconds=rest), **values)
    return PROVEN


def _apps(claim: DomainName) -> Iterable[int]:
    return sorted(set(claim.domains.values_list("app_id", flat=True)))


def _told(claim: DomainName, code: str, message: str, level: str = Event.Level.INFO, cause: str = "") -> None:
    for app_id in _apps(claim):
        events.record(
            code, message, level=level, tenant_id=claim.tenant_id, app_id=app_id, name=claim.name, cause=cause
        )
