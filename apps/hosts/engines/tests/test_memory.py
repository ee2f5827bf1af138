"""The levers of the in-memory engine: what the contract does not ask of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from apps.hosts.engines.base import (
    ContainerSpec,
    ContainerState,
    EngineAddress,
    EngineInfo,
    EngineUnreachable,
    ImageRef,
    Limits,
)
from apps.hosts.engines.memory import (
    NEVER_READY,
    RUNS,
    Failure,
    MemoryEngine,
    MemoryFleet,
    MemoryHost,
)

ADDRESS = EngineAddress("memory", "memory://one")
SPEC = ContainerSpec(
    platform="p",
    tenant="t",
    app="a",
    release=1,
    instance="i",
    image=ImageRef("r.test", "a", "sha256:" + "0" * 64),
    container_port=80,
    host_ip="10.0.0.1",
    host_port=20000,
    limits=Limits(memory_mb=64, cpu_millis=100),
)


@pytest.fixture
def host() -> Iterator[MemoryHost]:
    return MemoryHost(ADDRESS.url, default_behaviour=RUNS, info=EngineInfo("memory", 8000, 1024))


@pytest.fixture
def engine(host: MemoryHost) -> MemoryEngine:
    fleet = MemoryFleet()
    fleet.add(host)
    return MemoryEngine(ADDRESS, fleet)


def test_a_lost_answer_has_done_its_work_and_the_next_call_adopts_it(host: MemoryHost, engine: MemoryEngine) -> None:
    host.fail_next("ensure", Failure.AFTER)
    with pytest.raises(EngineUnreachable):
        engine.ensure(SPEC, pull_token="")
    made = engine.inspect(SPEC.name)
    assert made is not None
    assert engine.ensure(SPEC, pull_token="") == made
    assert host.made == 1


def test_a_failure_before_the_work_has_done_nothing(host: MemoryHost, engine: MemoryEngine) -> None:
    host.fail_next("ensure", times=2)
    for _ in range(2):
        with pytest.raises(EngineUnreachable):
            engine.ensure(SPEC, pull_token="")
    assert host.made == 0
    assert engine.ensure(SPEC, pull_token="").state is ContainerState.RUNNING


def test_a_host_can_go_and_come_back_with_its_containers(host: MemoryHost, engine: MemoryEngine) -> None:
    engine.ensure(SPEC, pull_token="")
    host.unreachable = True
    with pytest.raises(EngineUnreachable):
        engine.list("p")
    host.unreachable = False
    assert len(engine.list("p")) == 1


def test_a_crash_and_a_reboot_end_containers(host: MemoryHost, engine: MemoryEngine) -> None:
    other = replace(SPEC, instance="j", host_port=20001)
    engine.ensure(SPEC, pull_token="")
    engine.ensure(other, pull_token="")
    host.crash(SPEC.name, 137, oom_killed=True)
    host.reboot()
    crashed, rebooted = engine.inspect(SPEC.name), engine.inspect(other.name)
    assert crashed is not None
    assert rebooted is not None
    assert (crashed.oom_killed, crashed.exit_code) == (True, 137)
    assert (rebooted.state, rebooted.exit_code) == (ContainerState.EXITED, 137)


def test_a_prober_sees_what_listens(host: MemoryHost, engine: MemoryEngine) -> None:
    host.images[SPEC.image.digest] = NEVER_READY
    engine.ensure(SPEC, pull_token="")
    assert not host.is_ready("10.0.0.1", 20000)
    engine.remove(SPEC.name, grace_s=0)
    del host.images[SPEC.image.digest]
    engine.ensure(SPEC, pull_token="")
    assert host.is_ready("10.0.0.1", 20000)
    assert not host.is_ready("10.0.0.1", 20001)
    host.crash(SPEC.name)
    assert not host.is_ready("10.0.0.1", 20000)


def test_latency_is_slept_and_calls_are_counted(host: MemoryHost, engine: MemoryEngine) -> None:
    slept: list[float] = []
    host.latency_s, host.sleep = 0.5, slept.append
    engine.ping()
    engine.ping()
    assert slept == [0.5, 0.5]
    assert host.calls["ping"] == 2


def test_the_same_calls_give_the_same_ids() -> None:
    def run() -> str:
        fleet = MemoryFleet()
        fleet.add(MemoryHost(ADDRESS.url, default_behaviour=RUNS))
        return MemoryEngine(ADDRESS, fleet).ensure(SPEC, pull_token="").container_id

    assert run() == run()
