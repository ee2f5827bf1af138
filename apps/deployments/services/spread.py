"""Global apps: one instance on every host that is meant by the release's rules."""

from __future__ import annotations

from django.db.models import QuerySet

from apps.core.errors import Conflict
from apps.deployments.models import App, Release, ReplicaSet
from apps.deployments.services import candidates
from apps.deployments.services.placement import NoHost, request_of
from apps.hosts.models import Host


class GlobalHasNoCount(Conflict):
    code = "placement.global_has_no_count"


def followed(replica_set: ReplicaSet) -> tuple[set[int], set[int]]:
    """Hosts where an instance may be, seen or not, and those of them that take one now."""
    app = replica_set.app
    request = request_of(replica_set.release, tenant_id=app.tenant_id)
    meant = candidates.meant(app.cluster_id, request).exclude(availability=Host.Availability.DRAINING)
    return _ids(meant), _ids(candidates.matching(app.cluster_id, request))


def _ids(rows: QuerySet[Host]) -> set[int]:
    return set(rows.values_list("pk", flat=True))


def wanted_set(*, replica_set: ReplicaSet, wanted: int) -> None:
    """Note how many hosts there are to follow. One that is wanted no more (undeployed meanwhile) stays so."""
    ReplicaSet.objects.filter(pk=replica_set.pk, wanted=replica_set.wanted).exclude(wanted=0).update(wanted=wanted)


def global_size(*, app: App, release: Release) -> int:
    """How many instances a global release begins with. Raises NoHost where no host is meant by its rules."""
    count = candidates.matching(app.cluster_id, request_of(release, tenant_id=app.tenant_id)).count()
    if not count:
        raise NoHost("No host in service matches the release's placement rules.", refused={}, hosts=0, fitting=0)
    return count
