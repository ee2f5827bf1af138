"""Looking for a claim's proof in DNS, and saying what was seen."""

from __future__ import annotations

from apps.core.clock import now
from apps.core.leases import held
from apps.deployments import names
from apps.deployments.models import DomainName
from apps.deployments.reconcile.clients import Clients
from apps.deployments.resolving import Answer, Outcome, Resolver
from apps.deployments.selectors.domains import aliases_of, colliding
from apps.deployments.services.proofs import TXT_NEEDED, Look, name_judged

#: A name that meets more names of others than so many is theirs anyway.
MOST_MET = 20
NO_NAME, MISSING, WRONG = "domains.no_such_name", "domains.proof_missing", "domains.proof_wrong"
TIMEOUT, FAILED = "domains.dns_timeout", "domains.dns_failed"


def domain_prove(claim_id: int, clients: Clients) -> None:
    """One look at a claim whose time has come. No transaction is open while DNS is asked."""
    with held(DomainName, claim_id) as mine:
        if not mine:
            return
        claim = DomainName.objects.filter(pk=claim_id, check_at__lte=now()).first()
        if claim is None:
            return
        look = looked(claim, clients.resolver)
        without: list[int] = []
        if look.proof and claim.status == DomainName.Status.PENDING:
            met = list(colliding(claim.name, claim.tenant_id)[: MOST_MET + 1])
            if len(met) <= MOST_MET:
                without = [one.pk for one in met if looked(one, clients.resolver).is_gone]
        name_judged(pk=claim.pk, look=look, without_proof=without)


def looked(claim: DomainName, resolver: Resolver) -> Look:
    """Whether the claim's proof stands in DNS: the TXT record, or that the name is an alias of an app of the tenant."""
    txt = resolver.txt(claim.record_name)
    if claim.record_value in txt.values:
        return Look(DomainName.Proof.TXT)
    alias = None if claim.is_wildcard else resolver.cname(claim.name)
    aliases = aliases_of(claim)
    if alias is not None and aliases.intersection(alias.values):
        return Look(DomainName.Proof.CNAME)
    sure = txt.is_sure and (alias is None or alias.is_sure)
    return Look(code=_why(claim, txt, alias, bool(aliases)), is_gone=sure)


def _why(claim: DomainName, txt: Answer, alias: Answer | None, may_alias: bool) -> str:
    answers = [txt] if alias is None else [txt, alias]
    for outcome, code in ((Outcome.TIMEOUT, TIMEOUT), (Outcome.FAILED, FAILED)):
        if any(one.outcome == outcome for one in answers):
            return code
    if any(value.startswith("berth-verify=") for value in txt.values):
        return WRONG
    if alias is not None and alias.values and not may_alias and not names.is_wildcard(claim.name):
        return TXT_NEEDED
    if alias is not None and alias.outcome == Outcome.NO_NAME:
        return NO_NAME
    return MISSING
