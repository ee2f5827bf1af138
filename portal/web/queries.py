"""What the pages read, each in a fixed number of queries. Everything starts from what the viewer may see.

Neither env nor hosts' secrets are loaded: both stand encrypted, and of an env only settings are ever shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Sum, When
from django.utils.functional import cached_property

from apps.core.models import Event
from apps.deployments.models import App, Instance, ReplicaSet, Rollout
from apps.deployments.selectors import (
    app_url,
    apps_with_counts,
    events_of,
    in_maintenance,
    instances_of,
    rollouts_of,
    versions_of_app,
)
from apps.registry.models import Version
from apps.tenants.models import Tenant
from apps.tenants.permissions import Action, Viewer, allows, may_create_apps, role_in
from apps.tenants.selectors import tenants_visible_to
from portal.web.states import AppState, Facts, state_of

INSTANCES_SHOWN = 30
ENDED_SHOWN = 5
VERSIONS_SHOWN = 20
VERSIONS_OFFERED = 200
ROLLOUTS_SHOWN = 8
EVENTS_SHOWN = 15

#: More than an app will ever have rollouts.
FAR = 1_000_000_000
HEALTHY = Instance.Status.HEALTHY


@dataclass(frozen=True, slots=True)
class AppRow:
    """One line of the list."""

    app: App
    state: AppState
    ready: int
    wanted: int
    version: str
    url: str


def app_rows(viewer: Viewer) -> QuerySet[App]:
    """What ``app_row`` needs; a query set, so that the list can be cut into pages."""
    wanted = ReplicaSet.objects.filter(app=OuterRef("pk"), wanted__gt=0).order_by()
    # What is under way, before what waits behind it, says what goes on; where nothing is open, the latest does.
    order = Case(When(status__in=Rollout.OPEN, then=F("number") - FAR), default=-F("number"))
    latest = Rollout.objects.filter(app=OuterRef("pk")).order_by(order)
    serving = ReplicaSet.objects.filter(Q(wanted__gt=0) | Q(weight__gt=0), app=OuterRef("pk"))
    serving = serving.order_by("-weight", "-wanted", "-pk")
    rows: QuerySet[App] = apps_with_counts(viewer).annotate(
        instances_held=Subquery(
            Instance.objects.filter(app=OuterRef("pk"), released=False)
            .order_by()
            .values("app")
            .annotate(n=Count("pk"))
            .values("n")
        ),
        instances_wanted=Subquery(wanted.values("app").annotate(n=Sum("wanted")).values("n")),
        rollout_last=Subquery(latest.values("status")[:1]),
        rollout_target=Subquery(latest.values("target")[:1]),
        version_tag=Subquery(serving.values("release__version__tag")[:1]),
        is_asleep=Exists(ReplicaSet.objects.filter(app=OuterRef("pk"), weight__gt=0, wanted=0)),
    )
    return rows


def app_row(app: App) -> AppRow:
    """Of a row that came from ``app_rows``."""
    read = vars(app)
    facts = Facts(
        ready=read["instances_ready"],
        wanted=read["instances_wanted"] or 0,
        held=read["instances_held"] or 0,
        last=read["rollout_last"] or "",
        removal=read["rollout_last"] is not None and read["rollout_target"] is None,
        deleting=app.deleting_at is not None,
        asleep=read["is_asleep"],
    )
    return AppRow(app, state_of(facts), facts.ready, facts.wanted, read["version_tag"] or "", app_url(app))


def creatable_in(viewer: Viewer) -> list[Tenant]:
    """The tenants in which the viewer may create apps. People are members of few tenants, so each is asked."""
    open_now = tenants_visible_to(viewer).filter(deleting_at=None)
    return [tenant for tenant in open_now if may_create_apps(viewer, tenant)]


@dataclass(frozen=True, slots=True)
class Rights:
    """What the viewer may do with one app; one that is being deleted is only looked at."""

    role: str
    push: bool
    deploy: bool
    manage: bool

    @classmethod
    def of(cls, viewer: Viewer, app: App) -> Rights:
        stays = app.deleting_at is None
        return cls(
            role=role_in(viewer, app.tenant_id) or "",
            push=stays and allows(viewer, Action.PUSH, app),
            deploy=stays and allows(viewer, Action.DEPLOY, app),
            manage=stays and allows(viewer, Action.MANAGE, app),
        )


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """``host`` is a number within the app's page: which instances share a host, without saying which host it is."""

    instance: Instance
    version: str
    release: int
    host: int


@dataclass(frozen=True, slots=True)
class RolloutView:
    """``share`` is the target's, in per cent; ``position`` says how many are before one that waits."""

    rollout: Rollout
    open: bool
    removal: bool
    version: str
    release: int
    ready: int
    wanted: int
    share: int
    position: int


@dataclass
class AppLive:
    """The parts of an app's page that change by themselves."""

    app: App
    instances: list[InstanceRow] = field(init=False)
    hidden: int = field(init=False)
    ended: list[InstanceRow] = field(init=False)
    versions: list[Version] = field(init=False)
    more_versions: bool = field(init=False)
    rollouts: list[RolloutView] = field(init=False)
    open: list[RolloutView] = field(init=False)
    events: list[Event] = field(init=False)
    running_tags: set[str] = field(init=False)
    ready: int = field(init=False)
    wanted: int = field(init=False)
    asleep: bool = field(init=False)
    scale: int | None = field(init=False)
    placement_retry_at: datetime | None = field(init=False)
    held: int = field(init=False)

    def __post_init__(self) -> None:
        app = self.app
        sets = list(
            app.replica_sets.filter(Q(wanted__gt=0) | Q(weight__gt=0)).values_list(
                "wanted", "weight", "release__version__tag", "retry_at", "release__is_global", "retiring_until"
            )
        )
        self.wanted = sum(wanted for wanted, *_ in sets)
        # As app_scale sees it: what has the traffic, if only as far as the database goes.
        served = [one for one in sets if one[1] and one[5] is None]
        self.asleep = bool(served) and not self.wanted
        # None where there is nothing to scale: a global app has as many as there are hosts.
        self.scale = None
        if served and not any(one[4] for one in served):
            self.scale = max(served, key=lambda one: one[1])[0]
        self.placement_retry_at = min((one[3] for one in sets if one[0] and one[3] is not None), default=None)
        self.running_tags = {tag for wanted, _, tag, *_ in sets if wanted}
        self._count()
        rows = instances_of(app).select_related(None).select_related("replica_set__release__version")
        rows = rows.defer("replica_set__release__env")
        # What is not well stands first, so that it is among those that are shown.
        well = Case(When(status=HEALTHY, then=1), default=0)
        current = list(rows.filter(released=False).order_by(well, "pk")[:INSTANCES_SHOWN])
        ended = list(rows.filter(released=True).exclude(code="")[:ENDED_SHOWN])
        hosts = {pk: at for at, pk in enumerate(sorted({one.host_id for one in current}), start=1)}
        self.instances = [_instance_row(one, hosts) for one in current]
        self.ended = [_instance_row(one, {}) for one in ended]
        self.hidden = max(0, self.held - len(current))
        versions = list(versions_of_app(app)[: VERSIONS_SHOWN + 1])
        self.versions, self.more_versions = versions[:VERSIONS_SHOWN], len(versions) > VERSIONS_SHOWN
        rollouts = rollouts_of(app).defer("target__release__env")[:ROLLOUTS_SHOWN]
        self.rollouts = [self._rollout(one) for one in rollouts]
        # The one under way is before all that wait, and may be older than those that are listed.
        waiting = rollouts_of(app).filter(status__in=Rollout.OPEN).defer("target__release__env").order_by("number")
        self.open = [self._rollout(one, position) for position, one in enumerate(waiting)]
        self.events = list(events_of(app)[:EVENTS_SHOWN])

    def _count(self) -> None:
        """How many there are per replica set, by the database, whatever number is shown."""
        rows = self.app.instances.filter(released=False).order_by().values_list("replica_set_id", "status")
        counted: Iterable[tuple[int, str, int]] = rows.annotate(n=Count("pk"))
        self.held = 0
        self._ready_of: dict[int, int] = {}
        for set_id, status, number in counted:
            self.held += number
            if status == HEALTHY:
                self._ready_of[set_id] = self._ready_of.get(set_id, 0) + number
        self.ready = sum(self._ready_of.values())

    def _rollout(self, rollout: Rollout, position: int = 0) -> RolloutView:
        release = rollout.target.release if rollout.target else None
        return RolloutView(
            rollout=rollout,
            open=rollout.status in Rollout.OPEN,
            removal=release is None,
            version=release.version.tag if release else "",
            release=release.number if release else 0,
            ready=self._ready_of.get(rollout.target_id or 0, 0),
            wanted=rollout.instances,
            share=rollout.target.weight if rollout.target else 0,
            position=position,
        )

    @cached_property
    def latest(self) -> RolloutView | None:
        return self.rollouts[0] if self.rollouts else None

    @cached_property
    def state(self) -> AppState:
        last = self.open[0] if self.open else self.latest
        return state_of(
            Facts(
                ready=self.ready,
                wanted=self.wanted,
                held=self.held,
                last=last.rollout.status if last else "",
                removal=last.removal if last else False,
                deleting=self.app.deleting_at is not None,
                asleep=self.asleep,
            )
        )

    @cached_property
    def culprit(self) -> UUID | None:
        """The instance of the latest rollout that ended badly last, and whose capsule there is to read."""
        if self.latest is None or self.latest.rollout.target_id is None:
            return None
        rows = self.app.instances.filter(replica_set_id=self.latest.rollout.target_id, capsule__isnull=False)
        uid: UUID | None = (
            rows.filter(status__in=(Instance.Status.FAILED, Instance.Status.UNHEALTHY))
            .order_by("-status_since")
            .values_list("uid", flat=True)
            .first()
        )
        return uid

    @property
    def url(self) -> str:
        return app_url(self.app)

    @cached_property
    def maintenance(self) -> bool:
        return in_maintenance(self.app)

    @property
    def undeployable(self) -> bool:
        return bool(self.held or self.wanted or self.asleep)


def _instance_row(instance: Instance, hosts: dict[int, int]) -> InstanceRow:
    release = instance.replica_set.release
    return InstanceRow(instance, release.version.tag, release.number, hosts.get(instance.host_id, 0))


def version_tags(app: App) -> list[str]:
    return list(versions_of_app(app).values_list("tag", flat=True)[:VERSIONS_OFFERED])


def wanted_now(app: App) -> int | None:
    """How many instances a deploy keeps by default; None where nothing is wanted."""
    size: int | None = (
        app.replica_sets.filter(wanted__gt=0).order_by("-wanted").values_list("wanted", flat=True).first()
    )
    return size
