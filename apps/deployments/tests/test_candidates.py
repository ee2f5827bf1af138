"""The filters in SQL against the filters in Python: whoever changes one of them changes both."""

from __future__ import annotations

import itertools
import random

import pytest

from apps.deployments.scheduler.constraints import parse
from apps.deployments.scheduler.filters import refusal
from apps.deployments.scheduler.types import Request, Rules
from apps.deployments.services import candidates
from apps.deployments.tests.steps import deploy
from apps.hosts.selectors import hosts_of

AMD_ARM = (("linux", "amd64"), ("linux", "arm64"))
LABELS = ({}, {"zone": "a"}, {"zone": "b", "disk": "ssd"}, {"disk": "hdd"}, {"zone": "a", "disk": "ssd"})
CONSTRAINTS = (
    "zone == a", "zone != a", "zone in (a, b)", "zone not in (a, c)", "disk exists", "disk not exists",
)  # fmt: skip


@pytest.fixture
def cluster(world):
    """Hosts of many kinds, an app that runs on some, and another one to be beside."""
    for _ in range(4):
        world.host()
    app, other = world.app(), world.app("other")
    world.push(app)
    world.push(other)
    deploy(app, world, instances=2)
    deploy(other, world, instances=3)
    dice = random.Random(7)
    for number in range(60):
        world.host(
            labels=dice.choice(LABELS),
            status=dice.choice(["ready", "ready", "ready", "suspect", "down", "joining"]),
            availability=dice.choice(["active", "active", "active", "cordoned", "draining"]),
            disk_pressure=number % 9 == 0,
            dedicated_to=dice.choice([None, None, world.acme, world.rival]),
            memory_mb=dice.choice([100, 300, 1000]),
            memory_mb_reserve=dice.choice([0, 50]),
            memory_overcommit=dice.choice([50, 100, 150]),
            cpu_millis=dice.choice([50, 300, 1000]),
            engine_number=dice.choice([0, 20_010_005, 24_000_000]),
            port_max=20003,
            ports_held=dice.choice([0, 2, 4]),
            **dict(zip(("os", "architecture"), dice.choice([("", ""), *AMD_ARM]), strict=True)),
        )
    return app


@pytest.mark.parametrize("one_per_host", [False, True])
@pytest.mark.parametrize("beside", [(), ("other",)])
@pytest.mark.parametrize("constraints", [(), *((text,) for text in CONSTRAINTS), ("zone == a", "disk exists")])
def test_the_database_finds_the_hosts_that_the_filters_let_through(cluster, one_per_host, beside, constraints):
    replica_set = cluster.replica_sets.get()
    platforms = (frozenset(), frozenset(AMD_ARM[:1]), frozenset(AMD_ARM))
    for min_engine, memory_mb, its in itertools.product((0, 20_010_005), (16, 250), platforms):
        rules = Rules(tuple(parse(text) for text in constraints), beside, one_per_host, min_engine, "x")
        request = Request(memory_mb, 40, tenant_id=cluster.tenant_id, rules=rules, platforms=its)
        own = candidates.own_of(cluster.pk, replica_set.pk)
        rows = hosts_of(cluster.cluster_id).values_list(*candidates.COLUMNS)
        every = candidates.read(rows, own, candidates.neighbours_of(request))
        fit = {host.host_id for host in every if refusal(host, request) is None}
        found = candidates.with_room(cluster.cluster_id, request, replica_set.pk).values_list("pk", flat=True)
        assert set(found) == fit


def test_a_kept_statement_gives_what_the_orm_gives(cluster):
    arm = frozenset({("linux", "arm64")})
    for platforms in (frozenset(), arm, frozenset(), arm, frozenset({("plan9", "mips")})):
        request = Request(16, 10, tenant_id=cluster.tenant_id, platforms=platforms)
        kept = candidates.page(cluster.cluster_id, request, 0, fullest=False, start=0, stop=50)
        rows = candidates.with_room(cluster.cluster_id, request, 0).order_by(*candidates.ORDERS[False])
        assert kept == list(rows.values_list(*candidates.COLUMNS)[:50])
        assert kept
