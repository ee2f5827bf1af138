"""Explain: what it says is what placement does, and a refused deploy keeps it."""

from __future__ import annotations

from collections import Counter

import pytest
from django.contrib.auth.models import Permission

from apps.core.errors import BerthError
from apps.core.models import Event
from apps.deployments.models import Instance, Release, ReplicaSet
from apps.deployments.models.explanations import Explanation
from apps.deployments.services import explain as module
from apps.deployments.services.explain import STORED_PER_APP, shown
from apps.deployments.services.placement import WINDOW, instances_place
from apps.deployments.services.releases import BOUNDS, ReleaseInvalid, ReleaseSettings
from apps.deployments.services.rollouts import rollout_start
from apps.deployments.services.rules import RulesInvalid
from apps.deployments.services.spread import GlobalHasNoCount
from apps.hosts.models import Allocation


def explain(app, **asked):
    """As the tenant's owner asks."""
    owner = app.tenant.memberships.get(role="owner").user
    return module.explain(app, viewer=owner, **asked)


def _replica_set(world, slug="shop", **values):
    app = world.app(slug)
    release = Release.objects.create(app=app, number=1, version=world.push(app), **values)
    return ReplicaSet.objects.create(app=app, release=release, wanted=1)


def _chosen(explained):
    return Counter(one.host_id for one in explained.chosen)


CLUSTERS = {
    "alike": [{}] * 6,
    "unlike": [{"memory_mb": 1024 * n, "cpu_millis": 1000 * n} for n in (1, 2, 3, 8)],
    "zones": [{"labels": {"zone": f"z{n % 3}"}, "memory_mb": 2048 + 512 * n} for n in range(8)],
    "one zone named": [{"labels": {"zone": "a"}}, {}, {}],
    "some refuse": [{"availability": "cordoned"}, {"status": "lost"}, {"memory_mb": 64}, {}, {"disk_pressure": True}],
}


@pytest.mark.parametrize("weights", [{}, {"binpack": 5, "free_memory": 0}, {"zone": 0}])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_what_explain_chooses_is_where_placement_puts_it(world, cluster, weights):
    world.cluster.weights = weights
    world.cluster.save()
    for values in CLUSTERS[cluster]:
        world.host(**values)
    replica_set = _replica_set(world, memory_mb=200, cpu_millis=100)
    for count in (1, 3, 4):
        replica_set.app.refresh_from_db()
        explained = explain(replica_set.app, instances=count)
        before = set(Instance.objects.values_list("pk", flat=True))
        placed = instances_place(replica_set=replica_set, count=count)
        assert _chosen(explained) == Counter(one.host_id for one in placed)
        assert [one.scores for one in explained.chosen] == [one.why for one in placed]
        assert (explained.placed, explained.fits) == (count, True)
        assert len(before) + count == Instance.objects.count()


@pytest.mark.parametrize("weights", [{}, {"binpack": 5, "free_memory": 0}, {"idle_cpu": 5}])
@pytest.mark.parametrize("zones", [1, 3])
def test_in_a_cluster_larger_than_one_page_of_the_search_they_agree_too(world, zones, weights):
    world.cluster.weights = weights
    world.cluster.save()
    for n in range(3 * WINDOW):
        labels = {"zone": f"z{n % zones}"} if zones > 1 else {}
        world.host(labels=labels, memory_mb=4096 + 1024 * (n % 5), cpu_millis_claimed=700 * (n % 11))
    for n in range(4):
        replica_set = _replica_set(world, f"shop-{n}", memory_mb=200, cpu_millis=100)
        explained = explain(replica_set.app, instances=3)
        placed = instances_place(replica_set=replica_set, count=3)
        assert [one.host_id for one in explained.chosen] == [one.host_id for one in placed]
        assert [one.scores for one in explained.chosen] == [one.why for one in placed]
        assert [one.instances for one in explained.hosts if one.instances] == list(
            Counter(c.host_id for c in placed).values()
        )


@pytest.mark.parametrize(
    "placement",
    [
        {"constraints": ["disk == ssd"]},
        {"constraints": ["zone in (a, b)"], "anti_affinity": "hard"},
        {"affinity": ["db"]},
        {"min_engine": "24.0"},
    ],
)
def test_rules_choose_the_same_hosts_as_placement(world, placement):
    for n in range(6):
        labels = {"zone": "abc"[n % 3], "disk": "ssd" if n % 2 else "hdd"}
        world.host(labels=labels, engine_number=24_000_007 if n else 20_010_001)
    instances_place(replica_set=_replica_set(world, "db"), count=2)
    replica_set = _replica_set(world, placement=placement)
    explained = explain(replica_set.app, instances=2)
    placed = instances_place(replica_set=replica_set, count=2)
    assert _chosen(explained) == Counter(one.host_id for one in placed)
    assert explained.refused
    assert sum(explained.refused.values()) + explained.hosts_fitting == explained.hosts_total == 6


def test_each_host_has_its_reason_or_its_scores_and_the_chosen_stand_first(world):
    for values in ({"availability": "cordoned"}, {"memory_mb": 64}, {"memory_mb": 64}, {"labels": {"zone": "b"}}, {}):
        world.host(**values)
    explained = explain(world.app(), instances=1)
    assert explained.refused == {"cordoned": 1, "not enough memory": 2}
    assert (explained.hosts_total, explained.hosts_fitting) == (5, 2)
    first, second, *others = explained.hosts
    assert (first.instances, second.instances) == (1, 0)
    assert {"spread", "free_memory", "idle_cpu", "zone"} <= set(first.scores)
    assert all(one.reason and not one.scores for one in others)
    assert [one.number for one in explained.hosts] == [1, 2, 3, 4, 5]


def test_the_list_is_bounded_and_the_counts_are_not(world):
    for _ in range(5):
        world.host(memory_mb=64)
    world.host()
    explained = explain(world.app(), limit=2)
    assert len(explained.hosts) == 2
    assert explained.hosts[0].instances == 1
    assert (explained.hosts_total, explained.refused) == (6, {"not enough memory": 5})


def test_hosts_that_fill_up_on_the_way_are_told_apart_from_those_that_refuse(world):
    world.host(memory_mb=600)
    world.host(memory_mb=64)
    explained = explain(world.app(), instances=4, memory_mb=256)
    assert (explained.placed, explained.fits) == (2, False)
    assert explained.refused == {"not enough memory": 1}
    assert explained.exhausted == {"not enough memory": 1}


def test_defaults_are_the_last_release_s_and_what_if_changes_them_and_claims_nothing(world):
    world.host(labels={"disk": "hdd"})
    app = world.app()
    assert (explain(app).asked.memory_mb, explain(app).asked.cpu_millis) == (256, 100)
    release = Release.objects.create(app=app, number=1, version=world.push(app), memory_mb=64, cpu_millis=20)
    ReplicaSet.objects.create(app=app, release=release, wanted=3)
    asked = explain(app).asked
    assert (asked.instances, asked.memory_mb, asked.cpu_millis, asked.new_release) == (3, 64, 20, False)
    changed = explain(app, memory_mb=128, placement={"constraints": ["disk==ssd"]})
    assert changed.asked.placement == {"constraints": ["disk == ssd"]}
    assert changed.asked.new_release
    assert changed.refused == {"label: not disk == ssd": 1}
    assert not Allocation.objects.exists()
    assert not Explanation.objects.exists()


def test_a_new_release_is_not_held_apart_from_the_last(world):
    world.host()
    replica_set = _replica_set(world, placement={"anti_affinity": "hard"})
    instances_place(replica_set=replica_set, count=1)
    assert explain(replica_set.app, instances=1).refused == {"runs one of this release already": 1}
    assert explain(replica_set.app, instances=1, new_release=True).placed == 1


def test_the_quota_is_told(world):
    world.host()
    world.acme.quota.memory_mb = 300
    world.acme.quota.save()
    explained = explain(world.app(), instances=2, memory_mb=200)
    assert (explained.placed, explained.fits, explained.quota.fits) == (2, False, False)
    assert (explained.quota.asked["memory_mb"], explained.quota.left["memory_mb"]) == (400, 300)


@pytest.mark.parametrize(("name", "bounds"), [(one, BOUNDS[one]) for one in ("instances", "memory_mb", "cpu_millis")])
def test_numbers_out_of_bounds_are_refused_as_a_deploy_refuses_them(world, name, bounds):
    app = world.app()
    world.push(app)
    for value in (bounds[0] - 1, bounds[1] + 1):
        with pytest.raises(ReleaseInvalid) as caught:
            explain(app, **{name: value})
        assert caught.value.extra["field"] == name
        asked = {"instances": value} if name == "instances" else {"settings_": ReleaseSettings(**{name: value})}
        refused = _refused(world, app, **asked)
        assert (refused.code, refused.detail) == (caught.value.code, caught.value.detail)


def test_a_global_app_is_asked_for_on_every_matching_host_and_has_no_count(world):
    for disk in ("ssd", "ssd", "hdd"):
        world.host(labels={"disk": disk})
    app, rules = world.app(), {"global": True, "constraints": ["disk == ssd"]}
    explained = explain(app, placement=rules)
    assert (explained.asked.instances, explained.placed, len(set(_chosen(explained)))) == (2, 2, 2)
    with pytest.raises(GlobalHasNoCount):
        explain(app, placement=rules, instances=2)


def test_a_bad_rule_is_refused(world):
    with pytest.raises(RulesInvalid):
        explain(world.app(), placement={"constraints": ["nonsense"]})


def test_names_and_ids_are_left_out_for_those_who_may_not_see_them(world):
    world.host(name="secret-name")
    app = world.app()
    plain = explain(app).plain()
    world.bob.is_staff = True
    world.bob.save()
    world.bob.user_permissions.add(Permission.objects.get(codename="view_host"))
    hidden, told = (shown(plain, app=app, viewer=one) for one in (world.alice, world.bob))
    assert "secret-name" not in str(hidden)
    assert "host_id" not in str(told)
    assert told["hosts"][0]["name"] == told["chosen"][0]["name"] == "secret-name"


def test_of_another_tenants_host_only_the_number_is_told_and_nothing_of_its_state(world):
    world.host(dedicated_to=world.rival, status="down", availability="cordoned", labels={"zone": "theirs"})
    world.host()
    app = world.app()
    plain = explain(app).plain()
    told = shown(plain, app=app, viewer=world.alice)
    assert told["refused"] == {"dedicated to another tenant": 1}
    assert [one["reason"] for one in told["hosts"]] == [""]
    assert "theirs" not in str(told)


def _refused(world, app, **values):
    with pytest.raises(BerthError) as caught:
        rollout_start(app=app, version="1.0", by=world.alice, **values)
    return caught.value


@pytest.mark.parametrize("code", ["placement.no_host", "quota.exceeded"])
def test_a_refused_deploy_keeps_its_explanation(world, code):
    world.host(memory_mb=100)
    app = world.app()
    world.push(app)
    if code == "quota.exceeded":
        world.acme.quota.memory_mb = 200
        world.acme.quota.save()
    error = _refused(world, app, instances=2, settings_=ReleaseSettings(memory_mb=150))
    kept = Explanation.objects.get()
    assert error.code == kept.code == code
    assert error.extra["explanation"] == kept.pk
    assert Event.objects.get(code="rollout.refused").detail["explanation"] == kept.pk
    assert (kept.app, kept.asked_by) == (app, "alice")
    assert kept.request == {
        "instances": 2, "memory_mb": 150, "cpu_millis": 100, "placement": {}, "new_release": True,
    }  # fmt: skip
    assert kept.result["refused"] == {"not enough memory": 1}


def test_other_refusals_keep_none_and_only_the_newest_are_kept(world):
    app = world.app()
    assert "explanation" not in _refused(world, app).extra
    assert not Explanation.objects.exists()
    world.push(app)
    for _ in range(STORED_PER_APP + 2):
        last = _refused(world, app)
    assert Explanation.objects.count() == STORED_PER_APP
    assert Explanation.objects.filter(pk=last.extra["explanation"]).exists()


def test_where_explaining_fails_the_refusal_is_told_as_before(world, monkeypatch):
    app = world.app()
    world.push(app)

    def broken(*args, **values):
        raise RuntimeError

    monkeypatch.setattr(module, "explain", broken)
    error = _refused(world, app)
    assert error.code == "placement.no_host"
    assert "explanation" not in error.extra
    assert Event.objects.filter(code="rollout.refused").exists()
