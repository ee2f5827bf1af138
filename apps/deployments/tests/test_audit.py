"""Each invariant is broken behind the services' back, reported, and mended where that is safe."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from apps.core import jobs
from apps.deployments.management.commands import audit as command
from apps.deployments.models import App, Instance, Release
from apps.deployments.reconcile import audit as outside
from apps.deployments.services.audit import database_violations
from apps.deployments.services.audit_repair import violations_repair
from apps.deployments.services.placement import instances_place
from apps.deployments.services.routing import quarantines_end
from apps.deployments.tests.steps import deploy
from apps.deployments.tests.test_placement_races import _exact, _place, _race, _sets
from apps.hosts.engines.base import ContainerState
from apps.hosts.models import Allocation, Host, PortAllocation
from apps.tenants.models import Quota

CLAIMED = PortAllocation.Status.CLAIMED


@pytest.fixture
def running(app, world, loop):
    """Two instances, healthy, routed, on two hosts."""
    deploy(app, world)
    loop.settle()
    return list(Instance.objects.filter(status="healthy").select_related("host").order_by("pk"))


@pytest.fixture
def run(loop, monkeypatch):
    """The command, with the connections of the test: what it exited with, and what it printed."""
    monkeypatch.setattr(command, "Clients", lambda: loop.clients)

    def call(*arguments):
        out = StringIO()
        try:
            call_command("audit", "--settle=0", *arguments, stdout=out)
        except CommandError as error:
            return error.returncode, out.getvalue()
        return 0, out.getvalue()

    return call


def _codes():
    return {one.code for one in database_violations()}


def _outside(loop):
    found = outside.audit(loop.clients, "test", settle_s=0)
    return {one.code for one in found.violations}, found


def test_a_clean_world_has_no_violation(running, run, loop):
    assert len(running) == 2
    assert run("--strict") == (0, "0 violation(s), 0 warning(s), 0 repaired, 0 not looked at\n")


def test_none_is_left_behind_by_what_stops_and_rests(running, run, loop, app):
    app.replica_sets.update(wanted=0)
    loop.settle()
    assert not Instance.objects.filter(released=False).exists()
    assert PortAllocation.objects.filter(status="quarantined").exists()
    assert run("--strict")[0] == 0


def _counter(**values):
    return lambda one: Host.objects.filter(pk=one.host_id).update(**values)


def _used(**values):
    return lambda one: Quota.objects.filter(tenant_id=one.app.tenant_id).update(**values)


def _stray_allocation(one):
    Allocation.objects.create(
        host_id=one.host_id, owner=uuid4(), tenant_id=one.app.tenant_id, memory_mb=100, cpu_millis=100
    )


def _stray_port(one):
    PortAllocation.objects.create(host_id=one.host_id, port=29000, owner=uuid4())


def _released_only(one):
    Instance.objects.filter(pk=one.pk).update(released=True, status="stopped")


@pytest.mark.parametrize(
    ("breaks", "codes"),
    [
        (_counter(memory_mb_claimed=1), {"host.counters"}),
        (_counter(cpu_millis_claimed=F("cpu_millis_claimed") + 1), {"host.counters"}),
        (_counter(ports_held=0), {"host.ports_held"}),
        (_counter(memory_overcommit=150), {"host.ratios"}),
        (_counter(cpu_overcommit=150), {"host.ratios"}),
        (_used(memory_mb_used=1), {"quota.counters"}),
        (_used(cpu_millis_used=1), {"quota.counters"}),
        (_used(instances_used=0), {"quota.counters"}),
        (_stray_allocation, {"allocation.orphan", "host.counters", "quota.counters"}),
        (_stray_port, {"port.orphan", "host.ports_held"}),
        (_released_only, {"allocation.orphan", "port.orphan"}),
    ],
)
def test_what_is_safe_to_mend_is_reported_and_mended(running, run, breaks, codes):
    breaks(running[0])
    assert _codes() == codes
    status, told = run("--database-only")
    assert status == 1
    assert all(code in told for code in codes)
    status, told = run("--database-only", "--repair")
    assert (status, told.count("repaired  ")) == (0, len(codes))
    assert _codes() == set()
    _claimed_exactly()


def _claimed_exactly():
    live = Instance.objects.filter(released=False)
    assert set(Allocation.objects.values_list("owner", flat=True)) == set(live.values_list("uid", flat=True))
    claimed = PortAllocation.objects.filter(status=CLAIMED)
    assert set(claimed.values_list("owner", flat=True)) == set(live.values_list("uid", flat=True))


def test_counters_of_who_holds_nothing_are_mended(world):
    host = world.host(memory_mb_claimed=5, ports_held=1)
    Quota.objects.filter(tenant=world.rival).update(instances_used=3)
    assert _codes() == {"host.counters", "host.ports_held", "quota.counters"}
    violations_repair(database_violations())
    host.refresh_from_db()
    assert (host.memory_mb_claimed, host.ports_held) == (0, 0)
    assert _codes() == set()


def _other_host(one):
    return Host.objects.exclude(pk=one.host_id).get()


def _smaller(one):
    Release.objects.filter(pk=one.replica_set.release_id).update(memory_mb=F("memory_mb") + 1)


def _moved_allocation(one):
    Allocation.objects.filter(owner=one.uid).update(host=_other_host(one))


def _moved_port(one):
    PortAllocation.objects.filter(owner=one.uid).update(host=_other_host(one), port=29001)


def _second_port(one):
    PortAllocation.objects.create(host_id=one.host_id, port=29000, owner=one.uid)


@pytest.mark.parametrize(
    ("breaks", "codes"),
    [
        (lambda one: Allocation.objects.filter(owner=one.uid).delete(), {"instance.no_allocation"}),
        (_smaller, {"instance.allocation_differs"}),
        (_moved_allocation, {"instance.allocation_differs"}),
        (lambda one: PortAllocation.objects.filter(owner=one.uid).delete(), {"instance.no_port"}),
        (lambda one: PortAllocation.objects.filter(owner=one.uid).update(status="quarantined"), {"instance.no_port"}),
        (_moved_port, {"instance.no_port", "instance.port_differs"}),
        (_second_port, {"instance.port_differs"}),
    ],
)
def test_what_an_instance_lacks_is_reported_and_left_to_people(running, run, breaks, codes):
    breaks(running[0])
    status, _ = run("--database-only", "--repair")
    assert (status, _codes()) == (1, codes)


@pytest.mark.parametrize(
    ("lowers", "code"),
    [
        (lambda one: Host.objects.filter(pk=one.host_id).update(memory_mb=1), "host.above_capacity"),
        (lambda one: Host.objects.filter(pk=one.host_id).update(cpu_millis=1), "host.above_capacity"),
        (lambda one: Quota.objects.filter(tenant_id=one.app.tenant_id).update(instances=1), "quota.above_limit"),
    ],
)
def test_what_an_admin_may_have_wanted_is_a_warning(running, run, lowers, code):
    lowers(running[0])
    status, told = run("--database-only", "--repair")
    assert (status, told.splitlines()[0].startswith(f"warning  {code}")) == (0, True)
    assert run("--database-only", "--strict")[0] == 1


def test_a_port_that_gateways_may_know_is_not_given_out_at_once(running):
    one = running[0]
    assert App.objects.get().route_zxid > 0
    Instance.objects.filter(pk=one.pk).update(released=True)
    violations_repair(database_violations())
    port = PortAllocation.objects.get(owner=one.uid)
    assert (port.status, port.zxid) == ("quarantined", App.objects.get().route_zxid)
    assert quarantines_end(epoch="epoch-1") == 0


def _container(world, one):
    (found,) = [
        container
        for container in world.engine_of(one.host).containers.values()
        if container.observed.instance == one.short_id
    ]
    return found


def _vanish(world, one):
    del world.engine_of(one.host).containers[_container(world, one).observed.name]


def _stop(world, one):
    world.engine_of(one.host).crash(_container(world, one).observed.name)


def _stranger(short_id):
    def make(world, one):
        made = _container(world, one)
        observed = replace(made.observed, name="berth-x", instance=short_id)
        world.engine_of(one.host).containers["berth-x"] = replace(made, observed=observed)

    return make


def _copy(world, one):
    found = _container(world, one)
    world.engine_of(_other_host(one)).containers[found.observed.name] = found


def _over(world, one):
    # Services end it properly, but for its container.
    Instance.objects.filter(pk=one.pk).update(released=True, status="stopped")
    violations_repair(database_violations())


@pytest.mark.parametrize(
    ("breaks", "codes"),
    [
        (_vanish, {"container.missing"}),
        (_stop, {"container.not_running"}),
        (_stranger("0123456789ab"), {"container.unknown"}),
        (_stranger("no instance"), {"container.unknown"}),
        (_copy, {"container.twice", "container.elsewhere"}),
        (_over, {"container.released", "discovery.differs"}),
    ],
)
def test_containers_that_differ_are_reported_and_the_loop_is_asked_to_look(
    running, run, world, loop, nudges, breaks, codes, django_capture_on_commit_callbacks
):
    breaks(world, running[0])
    before = {host.pk: set(world.engine_of(host).containers) for host in Host.objects.all()}
    assert _outside(loop)[0] == codes
    nudges.clear()
    with django_capture_on_commit_callbacks(execute=True):
        status, told = run("--repair")
    assert (status, "the loop was asked to observe" in told) == (1, True)
    assert jobs.OBSERVE_HOST in {name for name, _ in nudges}
    assert before == {host.pk: set(world.engine_of(host).containers) for host in Host.objects.all()}


def test_a_silent_host_is_a_note_and_no_violation(running, run, world):
    _vanish(world, running[0])
    world.engine_of(running[0].host).unreachable = True
    status, told = run()
    assert status == 0
    assert f"note  host {running[0].host.name} was not looked at: engine.unreachable" in told


def test_a_host_that_fell_silent_between_the_looks_is_no_violation(running, world, loop):
    _vanish(world, running[0])
    engine = world.engine_of(running[0].host)
    found = outside.audit(loop.clients, "test", settle_s=2, sleep=lambda _: setattr(engine, "unreachable", True))
    assert (found.violations, len(found.notes)) == ([], 1)


@pytest.mark.parametrize("inside", [True, False])
def test_a_difference_that_settles_is_none(running, world, loop, inside):
    if inside:
        Host.objects.update(ports_held=9)
    else:
        _stop(world, running[0])
    slept = []

    def settle(seconds):
        slept.append(seconds)
        violations_repair(database_violations())
        for one in running:
            container = _container(world, one)
            container.observed = replace(container.observed, state=ContainerState.RUNNING)

    assert outside.audit(loop.clients, "test", sleep=settle).violations == []
    assert slept == [outside.SETTLE_S]


@pytest.mark.parametrize(
    ("breaks", "code"),
    [
        (lambda nodes: nodes["shop"].popitem(), "discovery.differs"),
        (lambda nodes: nodes["shop"].update({("1.0", "f" * 64): "127.0.1.9:20000"}), "discovery.differs"),
        (lambda nodes: nodes["shop"].update(dict.fromkeys(nodes["shop"], "127.0.1.9:1")), "discovery.differs"),
        (lambda nodes: nodes.clear(), "discovery.differs"),
        (lambda nodes: nodes.update(gone={}), "discovery.unknown"),
    ],
)
def test_zookeeper_that_differs_is_reported_and_rebuilt_by_the_loop(
    running, run, discovery, nudges, breaks, code, django_capture_on_commit_callbacks
):
    breaks(discovery.nodes)
    nudges.clear()
    with django_capture_on_commit_callbacks(execute=True):
        status, told = run("--repair", "--json")
    told = json.loads(told)
    assert (status, [one["code"] for one in told["violations"]]) == (1, [code])
    assert (jobs.REBUILD_DISCOVERY, ()) in nudges
    assert told["nudged"] == ["the loop was asked to compare every app with ZooKeeper"]


def test_zookeeper_away_is_a_note(running, run, discovery):
    discovery.down = True
    discovery.nodes.clear()
    status, told = run()
    assert (status, "note  ZooKeeper was not looked at" in told) == (0, True)


def test_the_database_alone_asks_nobody(running, run, world, discovery):
    discovery.nodes.clear()
    _vanish(world, running[0])
    assert run("--database-only")[0] == 0


@pytest.mark.django_db(transaction=True)
def test_repairs_among_placers_leave_the_counters_exact(world_committed):
    for _ in range(3):
        world_committed.host()
    sets = _sets(world_committed, 12)
    for one in sets[:3]:
        instances_place(replica_set=one, count=2)
    for host in Host.objects.all():
        owner = uuid4()
        Allocation.objects.create(host=host, owner=owner, tenant_id=sets[0].app.tenant_id, memory_mb=64, cpu_millis=10)
        PortAllocation.objects.create(host=host, owner=owner, port=host.port_max)
    Host.objects.update(memory_mb_claimed=F("memory_mb_claimed") + 7, ports_held=F("ports_held") + 3)
    Quota.objects.update(instances_used=F("instances_used") + 1)
    found = database_violations()

    def repair():
        violations_repair(found)
        return []

    outcomes = _race([*(_place(one, 2) for one in sets[3:]), repair, repair])
    assert outcomes == {"placed": 18}
    assert database_violations() == []
    PortAllocation.objects.filter(status="quarantined").delete()
    Host.objects.update(ports_held=F("ports_held") - 1)
    _exact()
