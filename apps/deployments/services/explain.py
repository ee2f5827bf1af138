"""Explain: what each host would say to a request, and where it would go, without doing it.

Where it goes is decided by placement's own search, so that the two can't differ; a test holds them to it. Beside that
every host of the cluster goes through the filters here, so that each has its reason or its scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Max, QuerySet

from apps.core.errors import BerthError, Missing
from apps.deployments.models import App, Release, ReplicaSet
from apps.deployments.models.explanations import Explanation
from apps.deployments.scheduler.filters import DEDICATED, refusal
from apps.deployments.scheduler.pipeline import Scorer
from apps.deployments.scheduler.types import Candidate, Decision, Request
from apps.deployments.scheduler.weighers import ZONE
from apps.deployments.selectors import apps_visible_to
from apps.deployments.services import candidates
from apps.deployments.services.placement import Ask, request_of, search
from apps.deployments.services.releases import BOUNDS, ReleaseSettings, bounded
from apps.deployments.services.rules import rules_checked
from apps.deployments.services.spread import GlobalHasNoCount
from apps.hosts.selectors import hosts_of
from apps.tenants.models import User
from apps.tenants.permissions import Viewer, operates, role_in
from apps.tenants.selectors import quota_of

log = structlog.get_logger(__name__)

LISTED = 50
MAX_LISTED = 500
#: Of a refused deploy so many hosts are kept, and of an app so many refusals.
STORED_HOSTS = 100
STORED_PER_APP = 20
STORED_CODES = frozenset({"placement.no_host", "quota.exceeded", "placement.contended"})


class ExplanationMissing(Missing):
    code = "explanations.not_found"


@dataclass(frozen=True, slots=True)
class Asked:
    """``new_release``: as a deploy would; else as that many more instances of the app's last release."""

    instances: int
    memory_mb: int
    cpu_millis: int
    placement: Mapping[str, Any]
    new_release: bool


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """``reason`` is why it takes not even one, else empty. ``scores`` are those before anything is placed.

    ``number`` counts within the answer, and is all that those hear who may not know the host's name.
    """

    number: int
    host_id: int
    name: str
    zone: str
    reason: str
    scores: Mapping[str, float]
    instances: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Where one instance goes; ``scores`` are those of that moment, with the instances before it on their hosts."""

    number: int
    host_id: int
    name: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class QuotaAnswer:
    asked: Mapping[str, int]
    left: Mapping[str, int]
    fits: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """``refused`` counts hosts that take none, by reason; ``exhausted`` those that take some and then no more.

    The counts are those of the whole cluster, however many hosts are listed.
    """

    asked: Asked
    fits: bool
    placed: int
    chosen: tuple[Chosen, ...]
    hosts_total: int
    hosts_fitting: int
    refused: Mapping[str, int]
    exhausted: Mapping[str, int]
    quota: QuotaAnswer
    hosts: tuple[HostAnswer, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it, with the hosts' ids and names: not for tenants, see ``shown``."""
        return asdict(self)


def explain(
    app: App,
    *,
    viewer: Viewer,
    instances: int | None = None,
    memory_mb: int | None = None,
    cpu_millis: int | None = None,
    placement: Mapping[str, Any] | None = None,
    new_release: bool = False,
    limit: int = LISTED,
) -> Explained:
    """Where so many instances would go now, and what each host says. What is None is as in the app's last release.

    A request that differs from the last release is a new one whatever ``new_release`` says. Claims nothing.
    Raises ReleaseInvalid, RulesInvalid, GlobalHasNoCount.
    """
    last = app.releases.defer("env").order_by("-number").first()
    base = last or Release()
    release = Release(
        version_id=base.version_id,
        memory_mb=bounded("memory_mb", base.memory_mb if memory_mb is None else memory_mb),
        cpu_millis=bounded("cpu_millis", base.cpu_millis if cpu_millis is None else cpu_millis),
        placement=base.placement if placement is None else rules_checked(placement, app=app, viewer=viewer),
    )
    count = _count(app, release, instances)
    current = ReplicaSet.objects.filter(release=last).first() if last else None
    same = (release.memory_mb, release.cpu_millis, release.placement) == (
        base.memory_mb,
        base.cpu_millis,
        base.placement,
    )
    as_new = new_release or not same or current is None
    request = request_of(release, tenant_id=app.tenant_id, seed=str(current.pk) if current else "")
    # One that is to come has no instance yet, and so no id that an instance could have.
    replica_set = ReplicaSet(app=app) if as_new or current is None else current
    weights = app.cluster.weights
    decision, _ = search(Ask(replica_set, count, request, weights), count)
    own = candidates.own_of(app.pk, replica_set.pk)
    rows = hosts_of(app.cluster_id).values_list(*candidates.COLUMNS).iterator(2000)
    hosts = candidates.read(rows, own, candidates.neighbours_of(request))
    answers = _answers(request, hosts, weights, candidates.in_zones(own), decision)
    by_id = {one.host_id: one for one in answers}
    # A host may be removed between the search and this.
    placed = [one for one in decision.placed if one.host_id in by_id]
    refused = Counter(one.reason for one in answers if one.reason)
    quota = _quota(app.tenant_id, request, count)
    return Explained(
        asked=Asked(count, release.memory_mb, release.cpu_millis, release.placement, as_new),
        fits=quota.fits and len(placed) == count,
        placed=len(placed),
        chosen=tuple(
            Chosen(by_id[one.host_id].number, one.host_id, by_id[one.host_id].name, _rounded(dict(one.scores)))
            for one in placed
        ),
        hosts_total=len(hosts),
        hosts_fitting=len(hosts) - refused.total(),
        refused=dict(sorted(refused.items())),
        exhausted=dict(sorted(decision.refused.items())),
        quota=quota,
        hosts=tuple(answers[: max(1, min(limit, MAX_LISTED))]),
    )


def _count(app: App, release: Release, asked: int | None) -> int:
    """As a deploy takes it; of a global app no more than can be shown."""
    if release.placement.get("global"):
        if asked is not None:
            raise GlobalHasNoCount("A global app runs once on every matching host: leave instances out.")
        meant = candidates.matching(app.cluster_id, request_of(release, tenant_id=app.tenant_id)).count()
        return max(1, min(meant, BOUNDS["instances"][1]))
    if asked is not None:
        return bounded("instances", asked)
    return app.replica_sets.filter(wanted__gt=0).aggregate(size=Max("wanted"))["size"] or 1


def _answers(
    request: Request,
    hosts: Sequence[Candidate],
    weights: Mapping[str, float],
    held: Counter[str],
    decision: Decision,
) -> list[HostAnswer]:
    """Chosen hosts first, then those that fit, the best first, then those that don't. No order follows names."""
    given = Counter(one.host_id for one in decision.placed)
    # The search chose a moment ago: what changed since makes no chosen host a refused one.
    refusals = {host.host_id: "" if given[host.host_id] else refusal(host, request) or "" for host in hosts}
    fit = [host for host in hosts if not refusals[host.host_id]]
    scorer = Scorer(request, fit, weights)
    zones = {host.zone for host in fit}
    fewest = min((held[zone] for zone in zones), default=0)
    turn = {pk: at for at, pk in enumerate(given)}
    scores: dict[int, dict[str, float]] = {}
    for host in fit:
        scores[host.host_id] = scorer.of(host)
        if scorer.zone_weight and len(zones) > 1:
            scores[host.host_id][ZONE] = scorer.zone(held[host.zone] - fewest)

    def order(host: Candidate) -> tuple[Any, ...]:
        reason = refusals[host.host_id]
        total = sum(scores.get(host.host_id, {}).values())
        return (bool(reason), turn.get(host.host_id, len(turn)), reason, -total, scorer.tie(host), host.host_id)

    return [
        HostAnswer(
            number=number,
            host_id=host.host_id,
            name=host.name,
            zone=host.zone,
            reason=refusals[host.host_id],
            scores=_rounded(scores.get(host.host_id, {})),
            instances=given[host.host_id],
        )
        for number, host in enumerate(sorted(hosts, key=order), start=1)
    ]


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(score, 3) for name, score in scores.items()}


def _quota(tenant_id: int, request: Request, count: int) -> QuotaAnswer:
    quota = quota_of(tenant_id)
    asked = {"memory_mb": request.memory_mb * count, "cpu_millis": request.cpu_millis * count, "instances": count}
    left = {key: max(0, getattr(quota, key) - getattr(quota, f"{key}_used")) for key in asked}
    return QuotaAnswer(asked, left, all(asked[key] <= left[key] for key in asked))


def shown(plain: Mapping[str, Any], *, app: App, viewer: Viewer) -> dict[str, Any]:
    """What the viewer may see of ``Explained.plain()``.

    No host's id. Names of hosts, and hosts of other tenants as more than a number, are for operators. Whoever was only
    granted this app hears nothing of the tenant's quota but whether it fits.
    """
    operator = operates(viewer, "hosts.view_host")
    member = operator or role_in(viewer, app.tenant_id) is not None

    def hidden(one: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in one.items() if key not in ("host_id", "name")}
        return {**kept, "name": one["name"] if operator else ""}

    return {
        **plain,
        "chosen": [hidden(one) for one in plain["chosen"]],
        "hosts": [
            {**hidden(one), "score": round(sum(one["scores"].values()), 3)}
            for one in plain["hosts"]
            if operator or one["reason"] != DEDICATED
        ],
        "quota": plain["quota"] if member else {**plain["quota"], "left": {}},
    }


# Kept with a refused deploy ---------------------------------------------------------------------------------------


def refusal_explained(
    *, app: App, by: User, error: BerthError, instances: int | None, settings_: ReleaseSettings
) -> int | None:
    """Store why a deploy was refused, and put the id into ``error.extra``. None where there is nothing to explain.

    Never raises: the refusal itself is what has to be told.
    """
    if error.code not in STORED_CODES:
        return None
    try:
        with transaction.atomic():
            pk = _store(app, by, error.code, instances, settings_)
    except Exception:
        log.exception("explaining_failed", app=app.pk, cause=error.code)
        return None
    error.extra["explanation"] = pk
    return pk


def _store(app: App, by: User, code: str, instances: int | None, asked: ReleaseSettings) -> int:
    explained = explain(
        app,
        viewer=by,
        instances=instances,
        memory_mb=asked.memory_mb,
        cpu_millis=asked.cpu_millis,
        placement=asked.placement,
        new_release=True,
        limit=STORED_HOSTS,
    )
    result = explained.plain()
    result["chosen"] = result["chosen"][:STORED_HOSTS]
    request = result.pop("asked")
    stored = Explanation.objects.create(app=app, asked_by=by.username, code=code, request=request, result=result)
    newest = Explanation.objects.filter(app=app).order_by("-pk").values_list("pk", flat=True)[:STORED_PER_APP]
    Explanation.objects.filter(app=app).exclude(pk__in=list(newest)).delete()
    return stored.pk


def explanations_visible_to(viewer: Viewer) -> QuerySet[Explanation]:
    rows: QuerySet[Explanation] = Explanation.objects.filter(app__in=apps_visible_to(viewer))
    return rows.select_related("app")


def explanation_visible_to(viewer: Viewer, pk: int) -> Explanation:
    """Raises ExplanationMissing, also for one of others' apps."""
    found = explanations_visible_to(viewer).filter(pk=pk).first()
    if found is None:
        raise ExplanationMissing("There is no such explanation that you can see. Only the newest of an app are kept.")
    return found


def stored_plain(explanation: Explanation) -> dict[str, Any]:
    """As ``Explained.plain()`` gives it, with what was cut away before it was kept counted."""
    return {**explanation.result, "asked": explanation.request}


def reasons(plain: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Reason and number of hosts, the most frequent first."""
    return sorted(plain["refused"].items(), key=lambda one: (-one[1], one[0]))
