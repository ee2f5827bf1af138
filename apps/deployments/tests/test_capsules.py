"""Failure capsules: what can still be read when the container is gone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.deployments.models import FailureCapsule, Instance, NoLog
from apps.deployments.reconcile.capsules import capture, container_name, signal_of
from apps.deployments.reconcile.containers import spec_of
from apps.deployments.services.capsules import KEPT_OF_APP, capsules_expire
from apps.deployments.services.rollouts import undeploy
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import EngineError
from apps.hosts.engines.memory import RUNS, Behaviour, MemoryEngine, refuses
from apps.hosts.models import Host

Status = Instance.Status


def behave(world, hosts, behaviour):
    for host in hosts:
        world.engine_of(host).default_behaviour = behaviour


@pytest.fixture
def failing(app, world, hosts, loop):
    """One instance that is deployed, serves, and then ends with this; its container is still there."""

    def make(exit_code=1, *, output=b"began\nboom\n", oom_killed=False, **values):
        behave(world, hosts, Behaviour(output=output))
        deploy(app, world, instances=1, **values)
        loop.settle()
        instance = Instance.objects.get(status=Status.HEALTHY)
        engine = world.engine_of(instance.host)
        engine.crash(next(iter(engine.containers)), exit_code, oom_killed=oom_killed)
        return instance

    return make


def capsule(instance):
    return FailureCapsule.objects.get(instance=instance)


def test_what_crashed_leaves_its_log_its_exit_code_and_its_signal(failing, world, loop):
    instance = failing(137, output=b"began\n\x1b[31mboom\x1b[0m\n")
    loop.settle()
    instance.refresh_from_db()
    assert instance.released
    assert not any(
        one.observed.instance == instance.short_id for one in world.engine_of(instance.host).containers.values()
    )
    kept = capsule(instance)
    assert (kept.code, kept.exit_code, kept.signal, kept.out_of_memory) == ("instance.exited", 137, "SIGKILL", False)
    assert kept.reason == instance.reason
    assert (kept.log, kept.log_truncated, kept.log_missing) == ("began\nboom\n", False, "")


def test_what_ran_out_of_memory_is_flagged(failing, loop):
    instance = failing(137, oom_killed=True)
    loop.settle()
    kept = capsule(instance)
    assert (kept.out_of_memory, kept.code, kept.signal) == (True, "instance.out_of_memory", "SIGKILL")


def test_secrets_of_the_release_are_not_in_it_and_what_members_may_read_is(failing, loop, monkeypatch):
    from apps.deployments.models import Release
    from apps.deployments.selectors import release_of

    instance = failing(
        output=b"password=hunter22 region=frankfurt\n", env={"PASSWORD": "hunter22", "REGION": "frankfurt"}
    )
    Release.objects.update(env_readable=["REGION"])
    release_of.cache_clear()
    Instance.objects.update(last_check="GET /?token=hunter22\x1b[0m answered 500")
    loop.settle()
    kept = capsule(instance)
    assert kept.log == "password=•••• region=frankfurt\n"
    assert kept.last_check == "GET /?token=•••• answered 500"


def test_what_never_became_ready_leaves_its_log_while_it_still_runs(app, world, hosts, loop):
    behave(world, hosts, Behaviour(ready=False, output=b"listening on 127.0.0.1\n"))
    deploy(app, world, instances=1)
    loop.step()
    Instance.objects.update(deadline_at=now() - timedelta(seconds=1))
    loop.settle()
    kept = FailureCapsule.objects.get()
    assert (kept.code, kept.exit_code, kept.signal) == ("instance.never_ready", None, "")
    assert kept.log == "listening on 127.0.0.1\n"


def test_what_stopped_answering_leaves_its_log(app, world, hosts, loop):
    behave(world, hosts, Behaviour(output=b"stuck\n"))
    deploy(app, world, instances=1)
    loop.settle()
    instance = Instance.objects.get()
    engine = world.engine_of(instance.host)
    for one in engine.containers.values():
        one.behaviour = Behaviour(ready=False, output=b"stuck\n")
    for _ in range(8):
        loop.step()
        Instance.objects.exclude(failing_since=None).update(failing_since=now() - timedelta(minutes=1))
    assert (capsule(instance).code, capsule(instance).log) == ("instance.unhealthy", "stuck\n")


@pytest.mark.parametrize(("behaviour", "code"), [(refuses(), "container.refused"), (None, "image.not_found")])
def test_what_could_not_even_start_says_that_it_wrote_nothing(app, world, hosts, loop, behaviour, code):
    behave(world, hosts, behaviour)
    deploy(app, world, instances=1)
    loop.settle()
    kept = FailureCapsule.objects.order_by("pk").first()
    assert (kept.code, kept.log, kept.log_missing) == (code, "", NoLog.NEVER_STARTED)


def test_a_crash_at_the_start_leaves_its_log(app, world, hosts, loop):
    behave(world, hosts, Behaviour(exit_code=3, output=b"no config\n"))
    deploy(app, world, instances=1)
    loop.settle(2)
    kept = FailureCapsule.objects.order_by("pk").first()
    assert (kept.exit_code, kept.log) == (3, "no config\n")


def test_what_wrote_nothing_and_what_somebody_removed_say_so(failing, world, loop):
    silent = failing(output=b"")
    loop.settle()
    assert capsule(silent).log_missing == NoLog.WROTE_NOTHING
    other = Instance.objects.get(status=Status.HEALTHY)
    world.engine_of(other.host).containers.clear()
    loop.settle()
    assert (capsule(other).code, capsule(other).log_missing) == ("instance.vanished", NoLog.GONE)


def test_a_plain_stop_leaves_none(app, world, loop):
    deploy(app, world)
    loop.settle()
    undeploy(app=app, by=world.alice)
    loop.settle()
    assert Instance.objects.filter(status=Status.STOPPED).count() == 2
    assert not FailureCapsule.objects.exists()


def test_the_capsule_is_kept_before_the_container_goes(failing, world, loop, monkeypatch):
    instance = failing()
    seen = []
    real = MemoryEngine.remove

    def remove(self, name, *, grace_s):
        seen.append(FailureCapsule.objects.filter(instance=instance).exists())
        raise KeyboardInterrupt  # the worker is killed here

    monkeypatch.setattr(MemoryEngine, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        loop.settle()
    assert seen == [True]
    monkeypatch.setattr(MemoryEngine, "remove", real)
    kept = capsule(instance)
    Instance.objects.update(lease_until=None)
    loop.settle()
    assert capsule(instance).created_at == kept.created_at, "once"


def test_an_engine_that_gives_no_log_holds_nothing_up_and_no_host_is_named(failing, world, loop, monkeypatch):
    instance = failing()

    def fail(self, name, *, tail):
        raise EngineError("disk of host-1 at 10.0.0.1 is broken")

    monkeypatch.setattr(MemoryEngine, "logs", fail)
    loop.settle()
    instance.refresh_from_db()
    kept = capsule(instance)
    assert instance.released
    assert (kept.log, kept.log_missing, kept.exit_code) == ("", NoLog.ENGINE_FAILED, 1)


def test_a_log_that_could_not_be_read_is_asked_for_again_while_the_container_is_there(failing, world, loop):
    instance = failing()
    engine = world.engine_of(instance.host)
    engine.fail_next("logs")
    engine.fail_next("remove")
    loop.settle()
    assert capsule(instance).log == "began\nboom\n"


def test_of_a_lost_instance_it_is_said_that_its_host_does_not_answer(app, world, hosts, loop):
    world.host()
    deploy(app, world, instances=1)
    loop.settle()
    instance = Instance.objects.get()
    world.engine_of(instance.host).unreachable = True
    Host.objects.filter(pk=instance.host_id).update(last_seen_at=now() - timedelta(minutes=1))
    loop.settle(8)
    kept = capsule(instance)
    assert (kept.code, kept.log_missing, kept.log) == ("host.lost", NoLog.HOST_SILENT, "")
    assert NoLog.HOST_SILENT.startswith("Its host does not answer")


def test_a_log_that_was_read_outlives_the_loss_of_the_host(failing, loop):
    instance = failing()
    loop.settle()
    before = capsule(instance)
    Instance.objects.filter(pk=instance.pk).update(status=Status.LOST, status_since=now(), released=False)
    instance.refresh_from_db()
    capture(instance, loop.clients)
    assert capsule(instance).log == before.log != ""


def test_a_second_end_of_the_same_row_is_told_and_not_the_first(failing, loop, world):
    instance = failing(3)
    loop.settle()
    first = capsule(instance)
    values = {"status": Status.FAILED, "status_since": now(), "exit_code": 4, "code": "instance.exited"}
    Instance.objects.filter(pk=instance.pk).update(**values)
    instance.refresh_from_db()
    capture(instance, loop.clients)
    second = capsule(instance)
    assert (first.exit_code, second.exit_code) == (3, 4)
    assert second.created_at > first.created_at


def test_what_is_started_anew_in_place_leaves_what_the_old_container_wrote(failing, world, loop):
    instance = failing(3, on_failure="restart")
    loop.settle()
    instance.refresh_from_db()
    assert (instance.status, instance.restarts) == (Status.HEALTHY, 1)
    kept = capsule(instance)
    assert (kept.exit_code, kept.code, kept.log) == (3, "instance.exited", "began\nboom\n")
    engine = world.engine_of(instance.host)
    engine.crash(next(iter(engine.containers)), 4)
    loop.settle()
    assert capsule(instance).exit_code == 4, "the latest end"


def test_the_container_is_asked_for_by_the_name_that_it_has(failing):
    instance = failing()
    instance = Instance.objects.select_related("app", "host", "replica_set__release__version__repository").get()
    assert container_name(instance) == spec_of(instance).name


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (137, "SIGKILL"),
        (143, "SIGTERM"),
        (139, "SIGSEGV"),
        (134, "SIGABRT"),
        (0, ""),
        (1, ""),
        (128, ""),
        (255, ""),
        (None, ""),
    ],
)
def test_which_signal_an_exit_code_means(code, name):
    assert signal_of(code) == name


def test_a_crash_loop_keeps_the_newest_only(app, world, hosts, loop):
    behave(world, hosts, RUNS)
    deploy(app, world, instances=1)
    loop.settle()
    template = Instance.objects.get()
    rows = [
        Instance(
            app=app,
            replica_set=template.replica_set,
            host=template.host,
            port=1,
            status=Status.FAILED,
            code="engine.failed",
        )
        for _ in range(KEPT_OF_APP + 5)
    ]
    for row in rows:
        row.save()
        capture(row, loop.clients)
    kept = set(FailureCapsule.objects.values_list("instance_id", flat=True))
    assert kept == {row.pk for row in rows[5:]}


def test_old_capsules_go_once_their_instance_is_over(failing, loop, settings, world):
    settings.CAPSULE_DAYS = 3
    instance = failing()
    loop.settle()
    FailureCapsule.objects.update(created_at=now() - timedelta(days=3, minutes=1))
    Instance.objects.filter(pk=instance.pk).update(released=False)
    assert capsules_expire() == 0
    Instance.objects.filter(pk=instance.pk).update(released=True)
    settings.CAPSULE_DAYS = 4
    assert capsules_expire() == 0
    settings.CAPSULE_DAYS = 3
    assert capsules_expire() == 1
    assert not FailureCapsule.objects.exists()
